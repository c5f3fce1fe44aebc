#!/usr/bin/env bash
# build.sh DIRECTORY STATE RELEASE PROJECT ROOT KEPT MARK [--media PATH] [--state PATH]... [-- ARGUMENT...]: make
# DIRECTORY/releases/RELEASE from DIRECTORY/RELEASE.tar.gz, beside the release that runs, and try what its services will
# do first (preflight.py ARGUMENT...), which MARK says. ROOT is the project's directory in the source. In a release:
#   source, venv, static   what the archive brought, and the gathered static files
#   sbom.json              what is in venv
#   project                a link to the project's directory: where everything runs
#   gunicorn.conf.py       a link to the project's own, or to Quintet's
# What is at a PATH in ROOT outlives the release: it is a link into STATE, the project's state directory. The web
# server may read what is at the PATH of --media there. Started again after a kill it starts over. `complete` is its last word.
set -euo pipefail
umask 022
directory=$1 state=$2 release=$3 project=$4 root=$5 kept=$6 mark=$7
shift 7
media='' paths=()
while [ "${1---}" != -- ]; do
  case $1 in
    --media) media=$2 && shift ;;
    --state) paths+=("$2") && shift ;;
  esac
  shift
done
shift "$(($# > 0))"

mkdir -p "$directory/releases/$release"
cd "$directory/releases/$release"
rm -rf source packages venv static quintet sbom.json project gunicorn.conf.py
tar --extract --gzip --file="$directory/$release.tar.gz" --no-same-owner
python3 -m venv --without-pip venv
rmdir venv/lib/python3*/site-packages
packages=$(echo venv/lib/python3*)/site-packages
mv packages "$packages"
cp quintet/quintet_settings.py "$packages/"
cp quintet/preflight.py "$packages/quintet_preflight.py"
ln -s "$(realpath --relative-to=. "source/$root")" project
if [ -e project/gunicorn.conf.py ]; then
  ln -s project/gunicorn.conf.py gunicorn.conf.py
else
  ln -s quintet/gunicorn.conf.py gunicorn.conf.py
fi
venv/bin/python - <<'EOP'
import importlib.metadata, pathlib, sys

for entry in importlib.metadata.entry_points(group="console_scripts"):
    command = pathlib.Path("venv/bin", entry.name)
    module, _, function = entry.value.partition(" ")[0].partition(":")
    name = function.partition(".")[0]
    command.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {name}\nsys.exit({function}())\n")
    command.chmod(0o755)
EOP
# What another release on this host has compiled of the same files need not be compiled again.
venv/bin/python - "$packages" <<'EOP'
import filecmp, os, pathlib, sys

packages, opt = pathlib.Path(sys.argv[1]), pathlib.Path.cwd().parents[2]
built = sorted(opt.glob("*/releases/*/complete"), key=os.path.getmtime)
for theirs in (complete.parent / packages for complete in built[-3:]):
    for compiled in theirs.rglob("*.pyc"):
        source = compiled.parent.parent.relative_to(theirs) / f"{compiled.name.partition('.')[0]}.py"
        wanted = packages / compiled.relative_to(theirs)
        if (packages / source).is_file() and not wanted.exists() and filecmp.cmp(packages / source, theirs / source, False):
            wanted.parent.mkdir(exist_ok=True)
            os.link(compiled, wanted)
EOP
# A file that is for another Python is no reason to stop: whoever imports it finds out.
venv/bin/python -m compileall -qq venv/lib source || true

own() { install --directory --owner="$project" --group="$project" --mode="$1" "$2"; }
own 0750 "$state"
for path in "${paths[@]}"; do
  mkdir -p "$(dirname "$state/$path")" "$(dirname "project/$path")"
  if [ ! -e "$state/$path" ]; then
    # It begins with what the source has there.
    if [ -e "project/$path" ]; then cp -r "project/$path" "$state/$path"; else mkdir "$state/$path"; fi
    chown -R "$project:$project" "$state/${path%%/*}"
  fi
  rm -rf "project/$path"
  ln -s "$state/$path" "project/$path"
done
if [ -n "$media" ]; then
  own 0750 "$state/$media"
  usermod --append --groups "$project" www-data
fi
case " $* " in
  *" --static "*) own 0755 static ;;
esac
quintet-manage --release "$release" --module quintet_preflight "$project" "$project" "$@" </dev/null
[ ! -e static ] || chown -R root:root static
touch "$mark" complete
rm "$directory/$release.tar.gz"

# Keep the last few, and always the one that runs.
cd ..
touch "$release"
current=$(basename "$(readlink ../current || true)")
find . -mindepth 1 -maxdepth 1 -printf '%T@ %f\n' | sort -rn | cut -d' ' -f2 | tail -n "+$((kept + 1))" | { grep -vxF -e "$current" || true; } | xargs --no-run-if-empty rm -rf
