#!/usr/bin/env bash
# The tool shellcheck is no Python package; on Debian and Ubuntu root can have it.
set -euo pipefail
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends shellcheck >/dev/null
else
  echo "quintet: lint needs shellcheck. Run 'sudo apt-get install shellcheck', then this again." >&2
  exit 1
fi
