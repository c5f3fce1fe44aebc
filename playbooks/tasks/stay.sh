#!/usr/bin/env bash
# stay.sh PROJECT...: wait a moment, and see that no unit of these projects has been started again meanwhile. One that has is
# shown with its last words.
set -euo pipefail
sleep 4
for project; do
  systemctl list-units --all --plain --no-legend "*-$project.service" "celery-$project-*.service"
done | while read -r unit _; do
  [ "$(systemctl show --value --property=NRestarts "$unit")" = 0 ] && continue
  {
    echo "$unit does not stay up. It says:"
    journalctl --no-pager --output=cat --lines=15 --unit="$unit"
  } >&2
  exit 1
done
