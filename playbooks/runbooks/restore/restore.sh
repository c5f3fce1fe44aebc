#!/bin/sh
# restore.sh UNIT STANZA VERSION PORT DIRECTORY WAS TO [TIMELINE BACKUP]: PostgreSQL, which does not run, as it was. UNIT runs it
# then. Says at which transaction it goes on, and how to undo that: WAS is the timeline of what was there, if that is known.
set -eu
unit=$1 stanza=$2 version=$3 port=$4 data=$5 was=$6 to=$7 timeline=${8:-} backup=${9:-}
runs=$unit
ask() { runuser -u postgres -- psql -qXAtp "$port" -c "$1"; }

install -d -o postgres -g postgres -m 0700 "$data"
set -- --delta
[ "$to" = latest ] || set -- "$@" --type=time "--target=$to" --target-action=promote
[ -z "$timeline" ] || set -- "$@" "--target-timeline=$timeline" "--set=$backup"
runuser -u postgres -- pgbackrest --stanza="$stanza" --log-level-console=info "$@" restore

if [ "$unit" = patroni.service ]; then
  # Patroni would have it follow somebody: it reads the log for itself first, where nobody comes in and nobody is waited for.
  runs=quintet-restore.service
  systemd-run --quiet --collect --unit="$runs" --service-type=notify --uid=postgres --gid=postgres \
    --property=KillSignal=SIGINT --property=TimeoutStartSec=infinity "/usr/lib/postgresql/$version/bin/postgres" \
    -D "$data" -c listen_addresses= -c synchronous_standby_names= -c unix_socket_directories=/run/postgresql
else
  # By this its unit knows that it is no new cluster.
  install -o postgres -g postgres -m 0600 /dev/null "$data/postmaster.opts"
  systemctl start "$runs"
fi
until [ "$(ask 'SELECT pg_is_in_recovery()' 2>/dev/null)" = f ]; do
  if ! systemctl --quiet is-active "$runs"; then
    tail -n 20 "/var/log/postgresql/postgresql-$version-main.log" >&2 || journalctl --no-pager -n 20 -o cat -u "$runs" >&2
    echo "PostgreSQL does not start. If the log ends before the time that you gave, say -e restore_to=latest." >&2
    exit 1
  fi
  sleep 1
done
ask "SELECT 'PostgreSQL goes on after the transaction of ' || coalesce(pg_last_xact_replay_timestamp()::text, 'the backup') || '.'"
[ -z "$was" ] || echo "What was there until now is timeline $was: -e restore_to=latest -e restore_timeline=$was"

if [ "$runs" != "$unit" ]; then
  systemctl stop "$runs"
  # What the members agreed on about what was: who led, how far it was, who had all of it. Their settings stay.
  python3 - <<'P'
import base64, json, ssl, sys, urllib.request
import yaml

with open("/etc/patroni/config.yml") as file:
    config = yaml.safe_load(file)
etcd, scope = config["etcd3"], f"/service/{config['scope']}/"
context = ssl.create_default_context(cafile=etcd["cacert"])
context.load_cert_chain(etcd["cert"], etcd["key"])


def post(host, path, **asked):
    body = json.dumps({name: base64.b64encode(text.encode()).decode() for name, text in asked.items()}).encode()
    with urllib.request.urlopen(f"https://{host}/v3/kv/{path}", body, 10, context=context) as answer:
        return json.load(answer)


for host in etcd["hosts"]:
    try:
        for key in ("initialize", "leader", "status", "sync", "history", "failsafe", "failover"):
            post(host, "deleterange", key=scope + key)
        sys.exit()
    except OSError as exc:
        said = f"{host}: {exc}"
sys.exit(f"etcd does not answer: {said}")
P
  systemctl start "$unit"
  until [ "$(ask 'SELECT pg_is_in_recovery()' 2>/dev/null)" = f ]; do
    systemctl --quiet is-active "$unit" || { journalctl --no-pager -n 20 -o cat -u "$unit" >&2 && exit 1; }
    sleep 1
  done
fi
