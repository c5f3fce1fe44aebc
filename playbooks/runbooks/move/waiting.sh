#!/bin/sh
# waiting.sh: the queues in which something is, of all vhosts, one a line.
set -eu
rabbitmqctl --quiet list_vhosts --no-table-headers name | while read -r vhost; do
  rabbitmqctl --quiet --vhost "$vhost" list_queues --no-table-headers name messages | while read -r queue messages; do
    [ "$messages" = 0 ] || echo "$vhost/$queue"
  done
done
