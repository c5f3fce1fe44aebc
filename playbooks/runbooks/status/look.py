"""look.py JSON: what runs on this host, as a line of JSON. Changes nothing.

JSON has `projects` (names), `sites` ({project, url, host}), `directory` (of the projects) and `counts`
({database, table, name, where}). What is not on this host is left out of the answer, and so is what does not answer.
"""

import contextlib
import glob
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.parse

UNITS = "/etc/systemd/system"
OURS = re.compile(
    r"(postgresql@|patroni|etcd|redis-server|redis-sentinel|rabbitmq-server|haproxy|keepalived|nginx)[^ ]*\.service"
)
CERTIFICATES = (
    "/etc/*/identity.pem", "/etc/postgresql/*/main/identity.pem", "/etc/nginx/quintet*.pem",
    "/etc/haproxy/authorities.pem",
)  # fmt: skip
PACKAGES = (
    "postgresql-[0-9]*",
    "patroni",
    "etcd-server",
    "redis-server",
    "rabbitmq-server",
    "haproxy",
    "keepalived",
    "nginx",
)
SECONDS = 20


def said(*command, statuses=(0,)):
    """What a command prints; nothing if it is not there, fails, or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode in statuses else ""


def at_times(unit):
    """Whether it runs when a timer says so, and is well between two times."""
    return ".timer" in unit["TriggeredBy"] and unit["SubState"] not in ("failed", "auto-restart")


def units():
    """The state of each unit that is to run: {name: {state, since, restarts}}."""
    ours = set()
    for path in glob.glob(f"{UNITS}/*.service"):
        with open(path, encoding="utf-8", errors="replace") as file:
            if "X-Quintet=" in file.read():
                ours.add(os.path.basename(path))
    listed = said("systemctl", "list-units", "--all", "--plain", "--no-legend").splitlines()
    names = {line.split()[0] for line in listed}
    names = {name for name in names if OURS.fullmatch(name) or re.sub("@.*[.]", "@.", name) in ours}
    # Of a template only its instances can be asked for.
    names |= {name for name in ours if "@." not in name}
    found = {}
    properties = "Id,ActiveState,SubState,UnitFileState,NRestarts,ActiveEnterTimestamp,TriggeredBy"
    for block in said("systemctl", "show", f"--property={properties}", *sorted(names)).split("\n\n") if names else ():
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if unit.get("UnitFileState") in ("enabled", "enabled-runtime", "static", "generated") and not at_times(unit):
            found[unit["Id"].removesuffix(".service")] = {
                "state": unit["ActiveState"],
                "since": unit["ActiveEnterTimestamp"],
                "restarts": int(unit["NRestarts"]),
            }
    return found


def releases(directory, projects):
    """The release of each project that is current, when it was built, and how many are kept."""
    found = {}
    for project in projects:
        home = os.path.join(directory, project)
        with contextlib.suppress(OSError):
            current = os.path.basename(os.readlink(f"{home}/current"))
            built = os.stat(f"{home}/releases/{current}/complete").st_mtime
            kept = glob.glob(f"{home}/releases/*/complete")
            found[project] = {"release": current, "built": utc(built), "kept": len(kept)}
    return found


def utc(seconds):
    """A time as people and machines read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def certificates():
    """The seconds that each certificate is good for, by its path."""
    found = {}
    for path in sorted(path for pattern in CERTIFICATES for path in glob.glob(pattern)):
        with contextlib.suppress(OSError, ssl.SSLError, KeyError):
            # The first of a file; Python reads one from a file in no other way.
            end = ssl.cert_time_to_seconds(ssl._ssl._test_decode_cert(path)["notAfter"])
            found[path] = {"until": utc(end), "days": int((end - time.time()) // 86400)}
    return found


def disks():
    """The space of each file system with our data: {path: {free_percent, free_gb}}."""
    found, devices = {}, set()
    for path in ("/", "/var", "/var/lib", "/opt", "/var/lib/postgresql", "/var/lib/rabbitmq", "/var/lib/redis"):
        with contextlib.suppress(OSError):
            device = os.stat(path).st_dev
            if device not in devices:
                devices.add(device)
                space = os.statvfs(path)
                free = 100 * space.f_bavail // max(space.f_blocks, 1)
                found[path] = {"free_percent": free, "free_gb": round(space.f_bavail * space.f_frsize / 2**30, 1)}
    return found


def versions():
    """The versions of what Debian brought."""
    form = "--showformat=${Package} ${Version} ${db:Status-Abbrev}\\n"
    # 1 says that one of the packages is not there.
    lines = said("dpkg-query", "--show", form, *PACKAGES, statuses=(0, 1)).splitlines()
    found = [line.split() for line in lines]
    return {words[0]: words[1] for words in found if len(words) == 3 and words[2] == "ii"}


def ask_postgresql(sql, database="postgres"):
    """Rows of a query, as lists of texts; None if there is no answer."""
    command = ["runuser", "-u", "postgres", "--", "psql", "--no-psqlrc", "-AtF", "\t", "-v", "ON_ERROR_STOP=1"]
    out = said(*command, "--dbname", database, "--command", sql)
    return [line.split("\t") for line in out.splitlines()] or None


def postgresql(counts):
    """Its role, its replicas, since when its log is not taken to the backups, and what is counted in its databases."""
    role = ask_postgresql("SELECT pg_is_in_recovery(), current_setting('server_version')")
    if not role:
        return None
    replica, version = role[0][0] == "t", role[0][1].split()[0]
    found = {"role": "replica" if replica else "leader", "version": version, "replicas": {}, "counts": {}}
    lag = "coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn), 0)::bigint"
    rows = (
        None
        if replica
        else ask_postgresql(f"SELECT application_name, state, sync_state, {lag} FROM pg_stat_replication")
    )
    for name, state, sync, behind in rows or ():
        found["replicas"][name] = {"state": state, "sync": sync, "behind_bytes": int(behind)}
    fails = (
        "SELECT last_failed_time FROM pg_stat_archiver WHERE last_failed_time > coalesce(last_archived_time, 'epoch')"
    )
    # Who follows hands over nothing, and what it could not when it led has been handed over by another.
    rows = None if replica else ask_postgresql(fails)
    found["log_fails_since"] = rows[0][0] if rows else None
    for count in () if replica else counts:
        there = ask_postgresql(f"SELECT to_regclass('{count['table']}') IS NOT NULL", count["database"])
        if there == [["t"]]:
            sql = f"SELECT count(*) FROM {count['table']} WHERE {count['where']}"
            rows = ask_postgresql(sql, count["database"])
            found["counts"][count["name"]] = int(rows[0][0]) if rows else None
    return found


def backups(stanza):
    """The newest backup of PostgreSQL (None: there is none)."""
    out = said("runuser", "-u", "postgres", "--", "pgbackrest", f"--stanza={stanza}", "--output=json", "info")
    ends = [one["timestamp"]["stop"] for one in json.loads(out or "[{}]")[0].get("backup", [])]
    return {
        "last": utc(ends[-1]) if ends else None,
        "hours": int((time.time() - ends[-1]) // 3600) if ends else None,
    }


def ask_rabbitmq(*words):
    """What rabbitmqctl says; None if it says nothing."""
    out = said("rabbitmqctl", "--quiet", "--formatter", "json", *words)
    return json.loads(out) if out.strip() else None


def rabbitmq():
    """Its nodes, alarms, and queues with their messages and consumers, by vhost."""
    if not os.path.exists("/usr/sbin/rabbitmqctl"):
        return None
    cluster = ask_rabbitmq("cluster_status")
    if not cluster:
        return None
    queues = []
    for vhost in ask_rabbitmq("list_vhosts", "name") or ():
        for queue in ask_rabbitmq("list_queues", "--vhost", vhost["name"], "name", "messages", "consumers") or ():
            # Celery's own are of no interest unless something is in them.
            if queue["messages"] or not re.match(r"celery_delayed_|.*\.pidbox$|celeryev", queue["name"]):
                queues.append({"vhost": vhost["name"]} | queue)
    return {
        "nodes": sorted(cluster["disk_nodes"]),
        "running": sorted(cluster["running_nodes"]),
        "alarms": [str(alarm) for alarm in cluster["alarms"]],
        "partitions": cluster["partitions"],
        "queues": sorted(queues, key=lambda queue: (queue["vhost"], queue["name"])),
    }


def redis():
    """The role of each instance of a group; a single one tells nobody."""
    found = {}
    for port in (6379, 6380):
        tls = ["--tls", "--cacert", "/etc/redis/authorities.pem", "--cert", "/etc/redis/identity.pem"]
        tls += ["--key", "/etc/redis/identity.pem"]
        out = said("redis-cli", *tls, "--no-auth-warning", "--user", "probe", "--pass", "probe", "-p", str(port),
                   "info", "replication")  # fmt: skip
        said_by = dict(line.split(":", 1) for line in out.split() if ":" in line)
        if "role" in said_by:
            found[str(port)] = {"role": said_by["role"], "replicas": int(said_by.get("connected_slaves", 0))}
    return found


def page(site):
    """The status of a site's page on this host, or the name of the error."""
    place = urllib.parse.urlsplit(site["url"])
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    more = {"context": ssl._create_unverified_context()} if place.scheme == "https" else {}
    try:
        connection = kind(place.hostname, place.port, timeout=5, **more)
        connection.request("GET", place.path, headers={"Host": site["host"]})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        return type(exc).__name__


def main():
    """Everything."""
    given = json.loads(sys.argv[1])
    sites = {site["project"]: page(site) for site in given["sites"]}
    print(
        json.dumps(
            {
                "units": units(),
                "versions": versions(),
                "releases": releases(given["directory"], given["projects"]),
                "sites": sites,
                "certificates": certificates(),
                "disks": disks(),
                "postgresql": postgresql(given["counts"]) if os.path.isdir("/var/lib/postgresql") else None,
                "backups": backups(given["stanza"]) if given["stanza"] else None,
                "rabbitmq": rabbitmq(),
                "redis": redis() if os.path.exists("/etc/redis/identity.pem") else {},
            }
        )
    )


if __name__ == "__main__":
    main()
