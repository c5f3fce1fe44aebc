#!/usr/bin/env bash
# try.sh PROJECT RELEASE MARK ARGUMENT...: try what the services of a release will do first (preflight.py ARGUMENT...), in
# the environment that they will have, and touch MARK when it can be done.
set -euo pipefail
project=$1 release=$2 mark=$3
shift 3
quintet-manage --release "$release" --module quintet_preflight "$project" "$project" "$@" </dev/null
touch "$mark"
