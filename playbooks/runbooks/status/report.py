"""report.py <JSON: put together what every host has said (look.py): prints JSON with `wrong`, `lines` and `hosts`.

On standard input are `hosts` ({name: what it said, or null}), `expected` ({project: hosts}) and `drift` (how many
things a deploy would change, or null).
"""

import json
import sys

CERTIFICATE_DAYS = 21
FREE_PERCENT = 10
BACKUP_HOURS = 48
LAG_BYTES = 64 * 2**20
WAITING = 1000


def wrong_on(host, said):
    """What is wrong on a host, a sentence each."""
    if said is None:
        yield f"{host} cannot be reached"
        return
    for name, unit in said["units"].items():
        if unit["state"] != "active":
            yield f"{host}: {name} is {unit['state']}"
    for project, status in said["sites"].items():
        if not isinstance(status, int) or status >= 500:
            yield f"{host}: the page of {project} answers {status}"
    for path, certificate in said["certificates"].items():
        if certificate["days"] < CERTIFICATE_DAYS:
            yield f"{host}: {path} ends in {certificate['days']} days"
    for path, disk in said["disks"].items():
        if disk["free_percent"] < FREE_PERCENT:
            yield f"{host}: {path} has {disk['free_percent']} % free"
    database = said["postgresql"] or {"replicas": {}}
    if said["postgresql"] is None and any(name.startswith(("postgresql@", "patroni")) for name in said["units"]):
        yield f"{host}: PostgreSQL does not answer"
    for name, replica in database["replicas"].items():
        if replica["state"] != "streaming" or replica["behind_bytes"] > LAG_BYTES:
            yield f"{host}: replica {name} is {replica['state']}, {megabytes(replica['behind_bytes'])} behind"
    if database.get("log_fails_since"):
        yield f"{host}: the log of PostgreSQL does not reach the backups ({database['log_fails_since']})"
    backups = said["backups"] or {"hours": None}
    if backups["hours"] is not None and backups["hours"] > BACKUP_HOURS:
        yield f"{host}: the last backup of PostgreSQL was {backups['hours']} hours ago"
    if said["rabbitmq"] is None and "rabbitmq-server" in said["units"]:
        yield f"{host}: RabbitMQ does not answer"


def wrong_with_queues(broker):
    """What is wrong with the broker as a whole."""
    for node in sorted(set(broker["nodes"]) - set(broker["running"])):
        yield f"RabbitMQ: {node} is not in the cluster"
    for alarm in broker["alarms"]:
        yield f"RabbitMQ: alarm {alarm}"
    if broker["partitions"]:
        yield "RabbitMQ: the cluster is split"
    for queue in broker["queues"]:
        if queue["messages"] and not queue["consumers"]:
            yield f"RabbitMQ: queue {queue['name']} has {queue['messages']} messages, and nobody takes them"
        elif queue["messages"] > WAITING:
            yield f"RabbitMQ: queue {queue['name']} has {queue['messages']} messages"


def wrong_with_releases(hosts, expected):
    """Projects that do not run, or not one release, where they should."""
    for project, places in expected.items():
        found = {host: (hosts[host] or {"releases": {}})["releases"].get(project) for host in places}
        names = {one["release"] if one else "nothing" for one in found.values()}
        if len(names) != 1 or names == {"nothing"}:
            each = ", ".join(f"{host} {one['release'] if one else 'nothing'}" for host, one in found.items())
            yield f"{project} does not run one release: {each}"


def wrong_with_leaders(hosts):
    """PostgreSQL without exactly one leader."""
    leaders = [host for host, said in hosts.items() if said and (said["postgresql"] or {}).get("role") == "leader"]
    if len(leaders) != 1:
        yield f"PostgreSQL has {len(leaders)} leaders {' '.join(leaders)}".rstrip()


def megabytes(count):
    """A number of bytes as people read it."""
    return f"{count / 2**20:.1f} MiB"


def lines_of(hosts, broker):
    """The whole, as people read it."""
    for host, said in hosts.items():
        if said is None:
            yield f"{host}: cannot be reached"
            continue
        disk = ", ".join(f"{path} {one['free_percent']} % free" for path, one in said["disks"].items())
        ends = min(said["certificates"].values(), key=lambda one: one["days"], default=None)
        yield f"{host}: disk {disk}" + (
            f"; first certificate ends in {ends['days']} days ({ends['until'][:10]})" if ends else ""
        )
        if said["versions"]:
            yield "  versions  " + ", ".join(f"{name} {version}" for name, version in said["versions"].items())
        for name, unit in said["units"].items():
            restarts = f", started again {unit['restarts']} times" if unit["restarts"] else ""
            yield f"  unit      {name} {unit['state']} since {unit['since']}{restarts}"
        for project, one in said["releases"].items():
            page = f", page {said['sites'][project]}" if project in said["sites"] else ""
            yield f"  release   {project} {one['release']} built {one['built']}, {one['kept']} kept{page}"
        if database := said["postgresql"]:
            yield f"  database  PostgreSQL {database['version']} {database['role']}"
            for name, replica in database["replicas"].items():
                behind = megabytes(replica["behind_bytes"])
                yield f"  replica   {name} {replica['state']} {replica['sync']}, {behind} behind"
            for name, count in database["counts"].items():
                yield f"  count     {name}: {count}"
        if backups := said["backups"]:
            yield f"  backup    the last {backups['last'] or 'is yet to come'}"
        for port, one in said["redis"].items():
            yield f"  redis     port {port} {one['role']}, {one['replicas']} replicas"
    if broker:
        yield f"RabbitMQ: {', '.join(broker['running'])}"
        for queue in broker["queues"]:
            count = f"{queue['messages']} messages, {queue['consumers']} consumers"
            yield f"  queue     {queue['vhost']}/{queue['name']} {count}"


def main():
    """Print it."""
    given = json.load(sys.stdin)
    hosts = given["hosts"]
    broker = next((said["rabbitmq"] for said in hosts.values() if said and said["rabbitmq"]), None)
    wrong = [sentence for host, said in hosts.items() for sentence in wrong_on(host, said)]
    wrong += wrong_with_releases(hosts, given["expected"])
    wrong += wrong_with_leaders(hosts)
    wrong += wrong_with_queues(broker) if broker else ["RabbitMQ: nobody answers"]
    lines = list(lines_of(hosts, broker))
    if given["drift"] is not None:
        lines.append(f"Drift: a deploy would change {given['drift']} things")
        wrong += [f"a deploy would change {given['drift']} things"] if given["drift"] else []
    print(
        json.dumps(
            {"ok": not wrong, "wrong": wrong, "lines": lines, "hosts": hosts, "broker": broker, "drift": given["drift"]}
        )
    )


if __name__ == "__main__":
    main()
