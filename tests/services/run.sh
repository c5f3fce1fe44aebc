#!/usr/bin/env bash
# Process 1 of the container: PostgreSQL, Redis and RabbitMQ, all in memory. Says "ready" on standard output when all
# three answer; ends when one of them does. Runs inside the container only.
set -euo pipefail
trap 'exit 0' TERM INT

cp -a /var/lib/template/postgresql /data/postgresql
install -d -o redis -g redis /data/redis
install -d -o rabbitmq -g rabbitmq /data/rabbitmq
install -d -o postgres -g postgres /run/postgresql

as() { setpriv --reuid "$1" --regid "$1" --init-groups env HOME="$(getent passwd "$1" | cut -d: -f6)" "${@:2}"; }

as rabbitmq /usr/lib/rabbitmq/bin/rabbitmq-server >/data/rabbitmq.log 2>&1 &
as postgres /usr/lib/postgresql/17/bin/postgres -D /data/postgresql -c listen_addresses='*' -c max_connections=300 \
  -c fsync=off -c full_page_writes=off >/data/postgresql.log 2>&1 &
as redis redis-server --bind 0.0.0.0 --dir /data/redis --save '' --appendonly no --databases 16 \
  --user default off --user quintet on '>quintet' '~*' '&*' +@all >/data/redis.log 2>&1 &

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
for port in 5432 6379 5672 15672; do
  until answers "$port"; do
    [ "$(jobs -rp | wc -l)" = 3 ] || { cat /data/*.log; exit 1; }
    sleep 0.1
  done
done
echo ready
wait -n
cat /data/*.log
exit 1
