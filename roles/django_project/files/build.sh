#!/usr/bin/env bash
# build.sh DIRECTORY RELEASE PROJECT static|none KEPT: make DIRECTORY/releases/RELEASE from DIRECTORY/RELEASE.tar.gz,
# beside the release that runs. Started again after a kill it starts over. `complete` is its last word.
set -euo pipefail
umask 022
directory=$1 release=$2 project=$3 static=$4 kept=$5

id -u "$project" >/dev/null 2>&1 ||
  useradd --system --user-group --home-dir "$directory" --no-create-home --shell /usr/sbin/nologin "$project"

mkdir -p "$directory/releases/$release"
cd "$directory/releases/$release"
rm -rf source packages venv static
tar --extract --gzip --file="$directory/$release.tar.gz" --no-same-owner
python3 -m venv --without-pip venv
rmdir venv/lib/python3*/site-packages
mv packages "$(echo venv/lib/python3*)/site-packages"
venv/bin/python - <<'EOP'
import importlib.metadata, pathlib, sys

for entry in importlib.metadata.entry_points(group="console_scripts"):
    command = pathlib.Path("venv/bin", entry.name)
    module, _, function = entry.value.partition(" ")[0].partition(":")
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    command.chmod(0o755)
EOP
venv/bin/python -m compileall -q -j 0 venv/lib source
if [ "$static" = static ]; then
  install -d -o "$project" -g "$project" static
  quintet-manage --release "$release" "$project" collectstatic --no-input --verbosity 0
  chown -R root:root static
fi
touch complete
rm "$directory/$release.tar.gz"

# Keep the last few, and always the one that runs.
cd ..
touch "$release"
current=$(basename "$(readlink ../current || true)")
find . -mindepth 1 -maxdepth 1 -printf '%T@ %f\n' | sort -rn | cut -d' ' -f2 | tail -n "+$((kept + 1))" | { grep -vxF -e "$current" || true; } | xargs --no-run-if-empty rm -rf
