#!/usr/bin/env bash
# wheels.sh DIRECTORY ROOT PACKAGE...: make wheels of all that is on the list DIRECTORY/requirements.txt, on this host, and
# put them into DIRECTORY/wheels.tar. DIRECTORY/source.tar is the packed source and ROOT the project's directory in it,
# where relative paths on the list begin. The Debian PACKAGEs, and what pip needs, are installed for it and removed again,
# unless they were there before; also when it fails, or is started again after it was killed.
set -euo pipefail
umask 022
directory=$(realpath "$1") root=$2
shift 2
export DEBIAN_FRONTEND=noninteractive

installed() { dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u; }
clean_up() {
  cd /
  rm -rf "$work"
  installed | comm -13 "$directory/before" - | xargs --no-run-if-empty apt-get purge --yes -qq >/dev/null
}
if [ ! -e "$directory/before" ]; then
  installed >"$directory/before.new"
  mv "$directory/before.new" "$directory/before"
fi
work=$(mktemp -d "$directory/.wheels.XXXXXX")
trap clean_up EXIT
apt-get update -qq
apt-get install --yes -qq --no-install-recommends python3-venv python3-dev "$@" >"$work/log" 2>&1 || {
  tail -n 20 "$work/log" >&2
  echo "quintet: apt cannot install dependencies.build_packages." >&2
  exit 1
}

mkdir "$work"/{source,wheels,tmp}
tar --extract --file="$directory/source.tar" --directory="$work/source" --no-same-owner
python3 -m venv "$work/venv"
cd "$work/source/$root"
# The list is complete, and pinned: what would be resolved again here might become something else.
HOME=$work TMPDIR=$work/tmp PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
  "$work/venv/bin/pip" wheel --quiet --no-cache-dir --no-deps --wheel-dir "$work/wheels" \
  --requirement "$directory/requirements.txt" >"$work/log" 2>&1 || {
  tail -n 40 "$work/log" | sed -E 's#://[^/@[:space:]]*@#://***@#g' >&2
  echo "quintet: pip cannot build what the project requires. Is a Debian package missing in dependencies.build_packages?" >&2
  exit 1
}
tar --create --file="$work/tar" --directory="$work/wheels" --owner=0 --group=0 --numeric-owner .
mv "$work/tar" "$directory/wheels.tar"
