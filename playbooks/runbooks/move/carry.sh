#!/bin/bash
# carry.sh out|in PLACE PORT [DATABASE...] -- [PROJECT...]: databases (of the server at PORT; - is none) and the state directories of
# projects, from this host into PLACE.tar, or out of all PLACE/*.tar. Says how many rows there are then, as
# {database: {table: rows}}; nothing where there are no databases.
set -euo pipefail
umask 077
way=$1 place=$2 port=$3 databases=() projects=()
shift 3
while [ "$1" != -- ]; do databases+=("$1") && shift; done
projects=("${@:2}")

as_postgres() { runuser -u postgres -- "$1" --port="$port" "${@:2}"; }
ask() { as_postgres psql -XtA --set=ON_ERROR_STOP=1 "$@"; }
# Who follows gets it from the leader.
leads() { [ "$port" != - ] && [ "$(ask --command='SELECT pg_is_in_recovery()' postgres)" = f ]; }

take_out() {
  local work name states=()
  work=$(mktemp --directory --tmpdir=/var/tmp)
  mkdir "$work/databases"
  if leads; then
    for name in "${databases[@]}"; do as_postgres pg_dump --create --format=custom "$name" >"$work/databases/$name"; done
  fi
  for name in "${projects[@]}"; do
    [ ! -d "/var/lib/$name" ] || states+=("$name")
  done
  tar --create --file="$place.tar" --directory="$work" databases ${states[0]+--directory=/var/lib} "${states[@]}"
  rm -r "$work"
}

# Users and roles have the same names there and here.
put_in() {
  local archive name
  for archive in "$place"/*.tar; do
    has() { tar --list --file="$archive" "$1" >/dev/null 2>&1; }
    for name in "${projects[@]}"; do
      ! has "$name" || tar --extract --file="$archive" --directory=/var/lib "$name"
    done
    leads || continue
    for name in "${databases[@]}"; do
      has "databases/$name" || continue
      ask --quiet --command="DROP DATABASE IF EXISTS \"$name\" WITH (FORCE)" postgres
      tar --extract --to-stdout --file="$archive" "databases/$name" |
        as_postgres pg_restore --create --exit-on-error --dbname=postgres
    done
  done
}

rows() {
  ask "$1" <<'SQL'
SELECT coalesce(json_object_agg(format('%s.%s', schemaname, relname), (xpath('/row/rows/text()', query_to_xml(
  format('SELECT count(*) AS rows FROM %I.%I', schemaname, relname), false, true, '')))[1]::text::bigint), '{}')
FROM pg_stat_user_tables
SQL
}

if [ "$way" = out ]; then take_out; else put_in; fi
if leads; then
  said=
  for name in "${databases[@]}"; do said+=", \"$name\": $(rows "$name")"; done
  echo "{${said#, }}"
fi
