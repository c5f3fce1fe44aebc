#!/usr/bin/env bash
# commands.sh [--owner] PROJECT RELEASE MARK COMMAND...: run management commands of a release, each given as one
# argument, and touch MARK when all have succeeded; with MARK there, nothing. With --owner they may make tables.
set -euo pipefail
owner=()
[ "$1" != --owner ] || { owner=(--owner) && shift; }
project=$1 release=$2 mark=$3
shift 3
[ ! -e "$mark" ] || exit 0
for command; do
  echo "$project: $command"
  # As a shell would split it, without a shell.
  mapfile -d '' -t words < <(xargs printf '%s\0' <<<"$command")
  quintet-manage "${owner[@]}" --release "$release" "$project" "${words[@]}" </dev/null
done
touch "$mark"
