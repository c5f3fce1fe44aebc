#!/usr/bin/env bash
# The browser tests drive Chromium, which is no Python package; on Debian root can have it.
set -euo pipefail
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null
else
  echo "quintet: the browser tests need Chromium. Run 'sudo apt-get install chromium', then this again, or name one by CHROMIUM." >&2
  exit 1
fi
