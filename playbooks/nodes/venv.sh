#!/usr/bin/env bash
# venv.sh PYTHON REQUIREMENTS: a virtual environment in .venv with these requirements, pinned by hash.
set -euo pipefail
python=$1 requirements=$2

die() {
  printf 'quintet: %s\n' "$*" >&2
  exit 1
}

command -v "$python" >/dev/null || die "There is no $python here. Install Python 3.11 or newer (on Debian: apt-get install python3 python3-venv)."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  die "$("$python" --version) is too old: Quintet needs Python 3.11 or newer. With another one: make PYTHON=python3.13 deploy."
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; } ||
    die "$python has no venv module. Run 'sudo apt-get install python3-venv', then this again."
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv; } >/dev/null ||
    die "apt-get could not install python3-venv. Repair that, then run this again."
fi
[ -x .venv/bin/pip ] || { rm -rf .venv && "$python" -m venv .venv; }
echo "Installing $requirements into .venv"
.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement "$requirements" ||
  die "pip could not install $requirements into .venv; what it says is above."
