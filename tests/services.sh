#!/usr/bin/env bash
# The services of the unit tests: PostgreSQL, Redis and RabbitMQ, the real ones, in one container on this machine.
#   tests/services.sh start    start them unless they run; prints their URLs
#   tests/services.sh stop     remove them, with all that is in them
#   tests/services.sh status   whether they run: exit status 0 or 1
# They keep nothing on disk. Name and ports can be chosen: see the variables below.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

name=${TEST_SERVICES:-quintet-test-services}
postgresql=${TEST_POSTGRESQL_PORT:-35432}
redis=${TEST_REDIS_PORT:-36379}
rabbitmq=${TEST_RABBITMQ_PORT:-35672}
management=${TEST_MANAGEMENT_PORT:-35673}

die() {
  printf 'quintet: %s\n' "$*" >&2
  exit 1
}

runs() { [ "$(docker inspect --format '{{.State.Running}}' "$name" 2>/dev/null)" = true ]; }

urls() {
  cat <<END
postgresql://quintet:quintet@127.0.0.1:$postgresql/quintet
redis://quintet:quintet@127.0.0.1:$redis/0
amqp://quintet:quintet@127.0.0.1:$rabbitmq/rabbit
http://quintet:quintet@127.0.0.1:$management
END
}

# The image of the node with Debian's packages in it; its tag is the digest of its recipe.
image() {
  local node tag said
  node=$(NODE_RELEASE=trixie "$here/../playbooks/nodes/image.sh")
  tag=quintet-test-services:$({ echo "$node" && cat "$here"/services/*; } | sha256sum | cut -c1-12)
  docker image inspect "$tag" >/dev/null 2>&1 ||
    said=$(docker build --quiet --tag "$tag" --build-arg "NODE=$node" "$here/services" 2>&1) ||
    die "docker could not build the image of the test services: $said"
  echo "$tag"
}

start() {
  local tag
  "$here/../playbooks/nodes/engine.sh"
  runs && return
  tag=$(image)
  docker rm --force "$name" >/dev/null 2>&1 || true
  docker run --detach --name "$name" --hostname quintet-test --tmpfs /data:size=2g,mode=0755 \
    --publish "127.0.0.1:$postgresql:5432" --publish "127.0.0.1:$redis:6379" \
    --publish "127.0.0.1:$rabbitmq:5672" --publish "127.0.0.1:$management:15672" "$tag" >/dev/null ||
    die "The test services did not start; what docker says is above. If a port is in use, choose another: 'TEST_RABBITMQ_PORT=45672 tests/services.sh start'."
  for _ in $(seq 600); do
    docker logs "$name" 2>/dev/null | grep -qx ready && return
    runs || break
    sleep 0.1
  done
  docker logs "$name" >&2
  die "The test services did not start; what they say is above."
}

case ${1:-} in
  start)
    start
    urls
    ;;
  stop) docker rm --force "$name" >/dev/null 2>&1 || true ;;
  status)
    runs || die "The test services do not run. Start them with 'tests/services.sh start'."
    urls
    ;;
  *) die "What should the test services do? Say 'tests/services.sh start', 'stop' or 'status'." ;;
esac
