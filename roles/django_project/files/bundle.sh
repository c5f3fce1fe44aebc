#!/usr/bin/env bash
# bundle.sh UV ARCHIVE REQUIREMENTS PYTHON MACHINE: put beside a packed source what it requires, as it is for hosts with
# this Python (3.13) and this machine (x86_64), into one archive, and print its path. Runs on the controller, once for all
# hosts of a kind, so that hosts need no index and no compiler, and each runs the same bytes.
set -euo pipefail
uv=$1 archive=$2 requirements=$3 python=$4 machine=$5
# A host says the last two about itself, and they become part of a path here.
[[ $python =~ ^3\.[0-9]+$ && $machine =~ ^[a-z0-9_]+$ ]] || {
  printf 'quintet: a host says that it has Python "%s" on a machine "%s". Is Python 3 installed there?\n' "$python" "$machine" >&2
  exit 1
}
bundle=${archive%.tar}-$python-$machine.tar.gz

exec 9>"$archive.lock"
flock 9 # hosts build side by side
if [ ! -e "$bundle" ]; then
  work=$(mktemp -d "${archive%/*}/.bundle.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/source"
  tar --extract --file="$archive" --directory="$work/source"
  "$uv" pip install --quiet --system-certs --require-hashes --only-binary :all: \
    --python-version "$python" --python-platform "$machine-unknown-linux-gnu" \
    --target "$work/packages" --requirement "$work/source/$requirements"
  # Its commands would start the controller's Python.
  rm -rf "$work/packages/bin" "$work/packages/.lock"
  tar --create --directory="$work" --owner=0 --group=0 --numeric-owner --mode=a+rX,go-w source packages |
    gzip --fast >"$work/bundle"
  mv "$work/bundle" "$bundle"
  # The last few are kept; one that is missed is made again.
  find "${archive%/*}" -name '*.tar.gz' -printf '%T@ %p\n' | sort -rn | tail -n +6 | cut -d' ' -f2- | xargs --no-run-if-empty rm -f
fi
echo "$bundle"
