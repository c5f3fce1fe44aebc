#!/usr/bin/env bash
# build.sh DIRECTORY RELEASE PROJECT REQUIREMENTS static|none KEPT: make DIRECTORY/releases/RELEASE from
# DIRECTORY/RELEASE.tar, beside the release that runs. Started again after a kill it starts over. `complete` is its last word.
set -euo pipefail
umask 022
directory=$1 release=$2 project=$3 requirements=$4 static=$5 kept=$6

id -u "$project" >/dev/null 2>&1 ||
  useradd --system --user-group --home-dir "$directory" --no-create-home --shell /usr/sbin/nologin "$project"

mkdir -p "$directory/releases/$release"
cd "$directory/releases/$release"
rm -rf source venv static
mkdir source
tar --extract --file="$directory/$release.tar" --directory=source --no-same-owner
python3 -m venv venv
venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --require-hashes --only-binary :all: \
  --requirement "source/$requirements"
venv/bin/python -m compileall -q source
if [ "$static" = static ]; then
  install -d -o "$project" -g "$project" static
  quintet-manage --release "$release" "$project" collectstatic --no-input --verbosity 0
  chown -R root:root static
fi
touch complete
rm "$directory/$release.tar"

# Keep the last few, and always the one that runs.
cd ..
touch "$release"
current=$(basename "$(readlink ../current || true)")
find . -mindepth 1 -maxdepth 1 -printf '%T@ %f\n' | sort -rn | cut -d' ' -f2 | tail -n "+$((kept + 1))" | { grep -vxF -e "$current" || true; } | xargs --no-run-if-empty rm -rf
