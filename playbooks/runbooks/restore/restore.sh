#!/bin/sh
# restore.sh STANZA VERSION PORT DIRECTORY TO [TIMELINE BACKUP]: PostgreSQL as it was. Says at which transaction it goes on, and
# how to undo that.
set -eu
stanza=$1 version=$2 port=$3 data=$4 to=$5 timeline=${6:-} backup=${7:-}
unit=postgresql@$version-main.service
ask() { runuser -u postgres -- psql -qXAtp "$port" -c "$1"; }

# Where it still runs: a restore to a time ends at a commit that is later, and here is one. What it stops with goes to the repository.
was=$(ask 'SELECT pg_current_xact_id(); SELECT timeline_id FROM pg_control_checkpoint()' 2>/dev/null | tail -n 1) || true
systemctl stop "$unit"

install -d -o postgres -g postgres -m 0700 "$data"
set -- --delta
[ "$to" = latest ] || set -- "$@" --type=time "--target=$to" --target-action=promote
[ -z "$timeline" ] || set -- "$@" "--target-timeline=$timeline" "--set=$backup"
runuser -u postgres -- pgbackrest --stanza="$stanza" --log-level-console=info "$@" restore
# By this its unit knows that it is no new cluster.
install -o postgres -g postgres -m 0600 /dev/null "$data/postmaster.opts"

systemctl start "$unit"
until [ "$(ask 'SELECT pg_is_in_recovery()' 2>/dev/null)" = f ]; do
  if ! systemctl --quiet is-active "$unit"; then
    tail -n 20 "/var/log/postgresql/postgresql-$version-main.log" >&2
    echo "PostgreSQL does not start. If the log ends before the time that you gave, say -e restore_to=latest." >&2
    exit 1
  fi
  sleep 1
done
ask "SELECT 'PostgreSQL goes on after the transaction of ' || coalesce(pg_last_xact_replay_timestamp()::text, 'the backup') || '.'"
[ -z "$was" ] || echo "What was there until now is timeline $was: -e restore_to=latest -e restore_timeline=$was"
