#!/usr/bin/env bash
# Build the image of a node unless it exists, and print its name on standard output. Its tag is the digest of its recipe.
#   NODE_RELEASE     Debian's release: trixie (default) or bookworm
#   NODE_BASE_IMAGE  start from this image (such as debian:trixie) instead of the distribution's archive
set -euo pipefail

release=${NODE_RELEASE:-trixie}
base=${NODE_BASE_IMAGE:-}
packages=(ca-certificates dbus iproute2 openssh-server python3 python3-apt sudo systemd systemd-sysv)
certificates=/usr/local/share/ca-certificates # nodes trust what this machine trusts
recipe=$(cd "$(dirname "$0")" && pwd)

die() {
  printf 'quintet: %s\n' "$*" >&2
  exit 1
}

digest=$({
  printf '%s\n' "$release" "$base" "${packages[@]}"
  find "$recipe/image" "$recipe/image.sh" "$certificates" -type f -exec sha256sum {} + 2>/dev/null | cut -d' ' -f1 | sort
} | sha256sum | cut -c1-12)
image=quintet-node:$release-$digest

if docker image inspect "$image" >/dev/null 2>&1; then
  echo "$image"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$recipe/image" "$work/context"
mkdir -p "$work/context/certificates"
find "$certificates" -name '*.crt' -exec cp {} "$work/context/certificates/" \; 2>/dev/null || true

if [ -z "$base" ]; then
  if ! command -v mmdebstrap >/dev/null; then
    { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; } ||
      die "mmdebstrap builds the node image and is not here. Run 'sudo apt-get install mmdebstrap', or start from an official image: NODE_BASE_IMAGE=debian:$release."
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends mmdebstrap; } >&2 ||
      die "apt-get could not install mmdebstrap. Repair that, or start from an official image: NODE_BASE_IMAGE=debian:$release."
  fi
  base=quintet-node-base:$release
  # shellcheck disable=SC2016  # $1 is for mmdebstrap's shell
  mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
    --aptopt='Acquire::Languages "none"' --skip=cleanup/apt/lists \
    "$release" "$work/base.tar" >"$work/log" 2>&1 ||
    die "mmdebstrap could not build Debian $release from the distribution's archive: $(tail -1 "$work/log")"
  docker import "$work/base.tar" "$base" >/dev/null
fi

docker build --quiet --tag "$image" --build-arg "BASE=$base" --build-arg "PACKAGES=${packages[*]}" "$work/context" >"$work/log" 2>&1 ||
  die "docker could not build the node image: $(tail -3 "$work/log")"
echo "$image"
