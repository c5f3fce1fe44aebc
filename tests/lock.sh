#!/usr/bin/env bash
# Pin every requirements.in by hash, without addresses, for all Pythons from 3.11 on.
set -euo pipefail
compile() {
  (cd "$(dirname "$1")" && "$OLDPWD/.venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --emit-build-options --no-header \
    --output-file "$(basename "$1" .in).txt" "$(basename "$1")")
}
for requirements in app/producer/requirements.in app/service/requirements.in requirements.in requirements-dev.in; do
  compile "$PWD/$requirements"
done
