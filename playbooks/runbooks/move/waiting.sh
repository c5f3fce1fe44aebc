#!/bin/bash
# waiting.sh: the queues in which something is, of all vhosts, one a line. Fails where RabbitMQ does not answer.
set -euo pipefail
rabbitmqctl --quiet list_vhosts --no-table-headers name | while read -r vhost; do
  rabbitmqctl --quiet --vhost "$vhost" list_queues --no-table-headers name messages |
    awk -F '\t' -v vhost="$vhost" '$2 != 0 { print vhost "/" $1 }'
done
