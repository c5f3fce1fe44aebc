#!/usr/bin/env bash
# pack.sh SOURCE CACHE: pack a project's source into CACHE/<digest>.tar and print that path. Equal content gives an equal
# digest on any machine: names, content and the executable bit count, owners and times do not.
set -euo pipefail
source=$1 cache=$2
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

cd "$source"

# Reads names only, so a clone of another user's is as good as one's own.
git() { command git -c safe.directory='*' "$@"; }

list() { # the files of the source: those that git does not ignore, or all
  if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git ls-files -z --cached --others --exclude-standard . | while IFS= read -r -d '' file; do
      if [ -e "$file" ]; then printf '%s\0' "$file"; fi
    done
  else
    find . -type f -not -path '*/__pycache__/*' -not -path './.git/*' -printf '%P\0'
  fi | LC_ALL=C sort -z
}

work=$(mktemp "$cache/.pack.XXXXXX")
trap 'rm -f "$work"' EXIT
list | tar --create --file="$work" --no-recursion \
  --null --files-from=- --owner=0 --group=0 --numeric-owner \
  --mode='a+rX,go-w' --mtime=@0
tar --list --file="$work" manage.py >/dev/null 2>&1 || {
  echo "quintet: $source has no manage.py to pack, or git ignores it: see 'git check-ignore -v $source/manage.py'." >&2
  exit 1
}
archive=$cache/$(sha256sum "$work" | cut -c1-12).tar
mv "$work" "$archive"
echo "$archive"
