"""collect.py: what a second pair of eyes needs of this host, printed as compressed JSON {name: text}.

What has the form of a secret does not leave the host. Nothing is changed, and a service that hangs is not waited for.
"""

import base64
import glob
import json
import os
import re
import subprocess
import zlib

COMMAND_SECONDS = 15
MOST_CHARACTERS = 400_000
REMOVED = "[removed]"
UNITS = (
    "gunicorn-* relay-* celery-* beat-* nginx* haproxy* keepalived* postgresql@* patroni* etcd* redis-server@* "
    "redis-sentinel@* rabbitmq-server* epmd* quintet-*"
)
PACKAGES = (
    "nginx* haproxy keepalived postgresql-[0-9]* patroni etcd-server redis* rabbitmq-server erlang-base python3 "
    "systemd openssl"
)
# Settings, and no file that is there for a secret alone.
FILES = """
/etc/debian_version /etc/hosts /etc/nginx/conf.d/*.conf /etc/haproxy/haproxy.cfg /etc/keepalived/*.conf
/etc/rabbitmq/*.conf /etc/rabbitmq/enabled_plugins /etc/redis/*.conf /etc/postgresql/*/main/conf.d/*.conf
/etc/postgresql/*/main/*hba.conf /etc/patroni/config.yml /etc/etcd/quintet.yml /etc/systemd/system/*.service
/etc/systemd/system/*.socket /etc/systemd/system/*.d/*.conf /etc/quintet/* /etc/quintet/*/*
"""
POSTGRESQL = """
runuser -u postgres -- psql --no-psqlrc <<'SQL'
SELECT version();
SELECT pg_is_in_recovery() AS follows, pg_postmaster_start_time() AS began;
SELECT datname, pg_size_pretty(pg_database_size(datname)) AS size FROM pg_database;
SELECT datname, usename, application_name, state, wait_event_type, count(*), max(now() - xact_start) AS longest
FROM pg_stat_activity GROUP BY 1, 2, 3, 4, 5 ORDER BY 6 DESC;
SELECT application_name, state, sync_state, replay_lag FROM pg_stat_replication;
SELECT relation::regclass, mode, granted, pid FROM pg_locks WHERE NOT granted;
SQL
"""
RABBITMQ = """
cd /var/lib/rabbitmq
runuser -u rabbitmq -- sh <<'SH'
export HOME=/var/lib/rabbitmq
rabbitmqctl --quiet cluster_status
rabbitmqctl --quiet list_users
rabbitmqctl --quiet list_vhosts name --no-table-headers | while read -r vhost; do
  echo "vhost $vhost"
  rabbitmqctl --quiet --vhost "$vhost" list_queues name type messages_ready messages_unacknowledged consumers </dev/null
  rabbitmqctl --quiet --vhost "$vhost" list_permissions </dev/null
  rabbitmqctl --quiet --vhost "$vhost" list_policies </dev/null
done
SH
"""
# `probe` has no password: it sees who leads, and nothing else.
REDIS = """
tls='--tls --cert /etc/redis/identity.pem --key /etc/redis/identity.pem --cacert /etc/redis/authorities.pem'
for conf in /etc/redis/redis-*.conf; do
  port=$(sed -n 's/^tls-port //p' "$conf")
  echo "$conf"
  REDISCLI_AUTH=probe redis-cli $tls --user probe -p "$port" info replication
done
"""
# By name: where there is this, it is asked that.
COMMANDS = {
    "host": (
        "/",
        "date --utc; uptime; uname -a; free -m; df -h; df -i; ps -eo pid,user,rss,pcpu,etime,comm --sort=-rss",
    ),
    "network": ("/", "ip -br address; ip route; ss -tln; nft list ruleset"),
    "units": ("/", f"systemctl --failed --no-pager; systemctl list-units --all --no-pager --plain {UNITS}"),
    "status": ("/", f"systemctl status --no-pager --lines=0 {UNITS}"),
    "versions": ("/", f"dpkg-query -W {PACKAGES}; ls -l /opt/quintet/*/current /opt/quintet/*/releases"),
    "journal": ("/", "journalctl --no-pager --output=short-iso --lines=3000"),
    "environment": ("/opt/quintet", "grep -oE '^[A-Za-z_][A-Za-z0-9_]*=' /opt/quintet/*/environment"),
    "proxy": ("/usr/local/sbin/quintet-haproxy", "quintet-haproxy show stat"),
    "postgresql": ("/etc/postgresql", POSTGRESQL),
    "patroni": ("/etc/patroni", "runuser -u postgres -- patronictl --config-file /etc/patroni/config.yml list"),
    "rabbitmq": ("/etc/rabbitmq", RABBITMQ),
    "redis": ("/etc/redis/group.conf", REDIS),
}
NAMED = r"[\w.-]*(?:passw(?:or)?d|secret|token|cookie|api[_-]?key)[\w.-]*['\"]?"
FORMS = (
    (re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(-----END \1-----|\Z)", re.DOTALL), REMOVED),
    # The password of a URL, also one that has an @ in it.
    (re.compile(r"(\w://[^\s:/@]*):[^\s/'\"]*@"), rf"\1:{REMOVED}@"),
    (re.compile(r"(authorization['\"]?[:=]\s*['\"]?)(\w+\s+)?\S+", re.IGNORECASE), rf"\1{REMOVED}"),
    (re.compile(rf"({NAMED}\s*[:=]\s*)(\"[^\"]*\"|'[^']*'|\S+)", re.IGNORECASE), rf"\1{REMOVED}"),
    (re.compile(r"((?:masterauth|requirepass|auth[_-]pass|sentinel-pass)\s+)\S+"), rf"\1{REMOVED}"),
    (re.compile(r"SCRAM-SHA-256\$\S+"), REMOVED),
)


def without_secrets(text):
    """A text without what has the form of a secret."""
    for form, instead in FORMS:
        text = form.sub(instead, text)
    return text


def said(command):
    """What a command prints, or why it does not."""
    try:
        result = subprocess.run(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired as exc:
        return (exc.stdout or b"").decode(errors="replace") + f"\nnot done after {COMMAND_SECONDS} s\n"
    return result.stdout.decode(errors="replace")


def read(path):
    """The text of a file, or why it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as exc:
        return f"{exc}\n"


def main():
    """The whole host."""
    found = {f"{name}.txt": said(command) for name, (there, command) in COMMANDS.items() if os.path.exists(there)}
    for pattern in FILES.split():
        found |= {f"files{path}": read(path) for path in sorted(glob.glob(pattern)) if os.path.isfile(path)}
    clean = {name: without_secrets(text)[-MOST_CHARACTERS:] for name, text in found.items()}
    print(base64.b64encode(zlib.compress(json.dumps(clean).encode())).decode())


if __name__ == "__main__":
    main()
