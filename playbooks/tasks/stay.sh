#!/usr/bin/env bash
# stay.sh PROJECT...: wait a moment, and see that no unit of these projects has been started again meanwhile, nor is about to
# be. One that has is shown with its last words. How often it was started again before is not asked: what is rolled back
# has a release before it that was, and a process that was killed last week is well.
set -euo pipefail

mapfile -t units < <(
  for project; do
    systemctl list-units --all --plain --no-legend "*-$project.service" "celery-$project-*.service"
  done | awk '{ print $1 }'
)
look() { systemctl show --value --property="$1" "$2"; }

declare -A restarts
for unit in "${units[@]}"; do restarts[$unit]=$(look NRestarts "$unit"); done
sleep 4
for unit in "${units[@]}"; do
  [ "$(look NRestarts "$unit")" = "${restarts[$unit]}" ] && [[ $(look SubState "$unit") != auto-restart* ]] && continue
  {
    echo "$unit does not stay up. It says:"
    journalctl --no-pager --output=cat --lines=15 --unit="$unit"
  } >&2
  exit 1
done
