#!/usr/bin/env bash
# pack.sh DIRECTORY: make in it the sources that the projects' entries name, of the directories in projects/: shop.git, a
# repository with the tag v1, and ledger-1.0.tar.gz. The same files make the same commit and the same archive.
set -euo pipefail
target=$1
projects=$(cd "$(dirname "$0")/projects" && pwd)
mkdir -p "$target"
work=$(mktemp -d "$target/.pack.XXXXXX")
trap 'rm -rf "$work"' EXIT

cp -r "$projects/async_shop" "$work/shop"
cp -r "$projects/compiled" "$work/ledger-1.0"
find "$work" -name __pycache__ -prune -exec rm -rf {} +

export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
export GIT_AUTHOR_NAME=shop GIT_AUTHOR_EMAIL=shop@example.org GIT_AUTHOR_DATE="2026-01-01T00:00:00Z"
export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
shop() { git -C "$work/shop" "$@"; }
shop init --quiet --initial-branch main
shop add --all
shop commit --quiet --message "The shop"
shop tag v1
git clone --quiet --bare "$work/shop" "$work/shop.git"
rm -rf "$target/shop.git"
mv "$work/shop.git" "$target/shop.git"

tar --create --directory="$work" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner ledger-1.0 |
  gzip --no-name >"$work/ledger-1.0.tar.gz"
mv "$work/ledger-1.0.tar.gz" "$target/"
