#!/usr/bin/env bash
# build.sh DIRECTORY RELEASE REQUIREMENTS [PROJECT]: finish a release whose source is unpacked, and make it `next`; with
# PROJECT, gather its static files too. Started again after a kill it starts over. `complete` is its last word.
set -euo pipefail
cd "$1/releases/$2"
rm -rf venv static
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --require-hashes --only-binary :all: \
  --requirement "source/$3"
venv/bin/python -m compileall -q source
ln -sfn "releases/$2" "$1/next"
if [ -n "${4-}" ]; then
  install -d -o "$4" -g "$4" static
  quintet-manage --next "$4" collectstatic --no-input --verbosity 0
  chown -R root:root static
fi
touch complete
