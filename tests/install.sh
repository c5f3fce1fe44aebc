#!/usr/bin/env bash
# install.sh PACKAGE PURPOSE: what a test needs and is no Python package; on Debian and Ubuntu root can have it.
set -euo pipefail
package=$1 purpose=$2
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  # One at a time: make runs tests side by side.
  exec 9>/run/lock/quintet-install
  flock 9
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$package" >/dev/null
else
  echo "quintet: $purpose needs $package. Run 'sudo apt-get install $package', then this again." >&2
  exit 1
fi
