"""Who leads each tier of a stack of several hosts, and what such a stack lacks until any host may be lost again."""

import contextlib
import hashlib
import json
import shlex
from concurrent.futures import ThreadPoolExecutor

from verify import TOPOLOGY, contract, node

DOMAIN, VHOST = contract("service_domain"), contract("broker_vhost")
DATABASES, BROKERS, EDGES, WEBS = (TOPOLOGY.hosts(group) for group in ("postgresql", "rabbitmq", "edge", "web"))
WORKERS, STORES = TOPOLOGY.hosts("worker"), TOPOLOGY.hosts("redis")
INSTANCES = {instance["name"]: instance["port"] for instance in contract("redis_instances", STORES[0])}
LEADS, FOLLOWS = ("leader", "running"), ("quorum_standby", "streaming")
ASK = """
import ssl, sys, urllib.request
identity, url, body = sys.argv[1:]
context = ssl.create_default_context(cafile=f"/etc/{identity}/authorities.pem")
context.load_cert_chain(f"/etc/{identity}/identity.pem")
print(urllib.request.urlopen(url, body.encode() or None, timeout=3, context=context).read().decode())
"""


def on(hosts, command):
    """What a command prints on each of the hosts, all at the same time."""
    with ThreadPoolExecutor(len(hosts)) as pool:
        return dict(zip(hosts, pool.map(lambda host: node(host).check_output(command), hosts), strict=True))


def ask(host, identity, port, path, body=""):
    """The JSON that a host answers to itself, as what has that certificate."""
    url = f"https://{host}.{DOMAIN}:{port}{path}"
    return json.loads(node(host).check_output(shlex.join(["python3", "-c", ASK, identity, url, body])))


def first(hosts, question):
    """The answer of the first of the hosts that gives one."""
    for host in hosts:
        with contextlib.suppress(Exception):
            return question(host)
    raise LookupError(f"none of {', '.join(hosts)} answers")


def members():
    """What Patroni says of each member of PostgreSQL, by its host."""
    found = first(DATABASES, lambda host: ask(host, "patroni", contract("patroni_api_port"), "/cluster"))
    return {member["name"]: member for member in found["members"]}


def etcd(host):
    """What etcd on a host says of itself."""
    return ask(host, "etcd", contract("etcd_client_port"), "/v3/maintenance/status", "{}")


def rabbitmq(host, *arguments):
    """The JSON of a command of RabbitMQ."""
    command = ["timeout", "30", "rabbitmqctl", "--quiet", "--formatter", "json", *arguments]
    return json.loads(node(host).check_output(shlex.join(command)))


def queues():
    """What a node says of each quorum queue, by its name."""
    columns = ("name", "type", "leader", "members", "online", "consumers")
    rows = first(BROKERS, lambda host: rabbitmq(host, "list_queues", "--vhost", VHOST, *columns))
    return {row["name"]: row for row in rows if row["type"] == "quorum"}


def redis_cli(port, *commands):
    """The shell's words for some commands to Redis, or to Sentinel, on the host itself."""
    secure = "--tls --cacert /etc/redis/authorities.pem --cert /etc/redis/identity.pem --key /etc/redis/identity.pem"
    text = "\n".join(commands)
    return f"timeout 5 redis-cli {secure} -p {port} <<'QUINTET'\n{text}\nQUINTET\n"


def sentinel_cli(*command):
    """The same for Sentinel, from who may do everything."""
    password = hashlib.sha256(f"{contract('redis_internal_password')} operator".encode()).hexdigest()
    return redis_cli(contract("sentinel_port"), f"AUTH operator {password}", " ".join(("SENTINEL", *command)))


def replication(host, port):
    """What an instance of Redis says of itself."""
    said = node(host).check_output(redis_cli(port, "AUTH probe probe", "INFO replication"))
    return dict(line.strip().split(":", 1) for line in said.splitlines() if ":" in line)


def watched(host, name):
    """What the Sentinel of a host knows of a master."""
    lines = node(host).check_output(sentinel_cli("MASTER", name)).splitlines()[1:]
    return dict(zip(lines[::2], lines[1::2], strict=False))


def holders():
    """The hosts of the edge that have its address."""
    shown = {host: node(host).run(f"ip -br address show to {contract('edge_address')}").stdout for host in EDGES}
    return [host for host, text in shown.items() if text.strip()]


def leader(tier):
    """The host that leads a tier: for RabbitMQ that of the queue of tasks, for Redis the master of the results."""
    if tier == "postgresql":
        found = [name for name, member in members().items() if (member["role"], member["state"]) == LEADS]
    elif tier == "etcd":
        said = {host: etcd(host) for host in TOPOLOGY.hosts("etcd")}
        found = [host for host, one in said.items() if one["leader"] == one["header"]["member_id"]]
    elif tier == "rabbitmq":
        found = [queues()["service"]["leader"].removeprefix("rabbit@").split(".")[0]]
    elif tier == "redis":
        found = [host for host in STORES if replication(host, INSTANCES["results"])["role"] == "master"]
    else:
        found = holders()
    [host] = found
    return host


def switch(first, then=None):
    """Let another member than `first` lead PostgreSQL: `then`, or any."""
    to = f" --candidate {then}" if then else ""
    node(first).check_output(f"patronictl -c /etc/patroni/config.yml switchover --leader {first}{to} --force")


# -- What is missing --------------------------------------------------------------------------------------------------


def _postgresql():
    found = members()
    states = sorted((member["role"], member["state"]) for member in found.values())
    wanted = [LEADS, *[FOLLOWS] * (len(DATABASES) - 1)]
    timelines = {member.get("timeline") for member in found.values()}
    return states == wanted and len(timelines) == 1 and not any(one.get("pending_restart") for one in found.values())


def _etcd():
    said = {host: etcd(host) for host in TOPOLOGY.hosts("etcd")}
    [first] = {one["leader"] for one in said.values()}
    # Who leads PostgreSQL as well is not lost within the goal: its lock would get all its time again.
    return said.get(leader("postgresql"), {"header": {"member_id": None}})["header"]["member_id"] != first


def _rabbitmq():
    least = min(len(BROKERS), 3)
    for queue in queues().values():
        if len(queue["members"]) != least or sorted(queue["members"]) != sorted(queue["online"]):
            return False
        if queue["name"] in ("service", "results") and queue["consumers"] != len(WORKERS):
            return False
    # Each question costs a second of a processor.
    seen = rabbitmq(BROKERS[-1], "cluster_status")
    return len(seen["running_nodes"]) == len(BROKERS) and not (seen["partitions"] or seen["alarms"])


def _redis():
    for name, port in INSTANCES.items():
        found = {host: replication(host, port) for host in STORES}
        [master] = [host for host, said in found.items() if said["role"] == "master"]
        others = [said for host, said in found.items() if host != master]
        if found[master]["min_slaves_good_slaves"] != str(len(others)):
            return False
        if any(said["master_link_status"] != "up" for said in others):
            return False
        for host in STORES:
            known = watched(host, name)
            counts = (known["num-slaves"], known["num-other-sentinels"])
            if known["flags"] != "master" or counts != (str(len(others)),) * 2:
                return False
            if known["ip"] != contract("host_address", master):
                return False
    return True


def _edge():
    for host in EDGES:
        rows = [line.split(",") for line in node(host).check_output("quintet-haproxy show stat").splitlines()]
        status = rows[0].index("status")
        if not all(row[status] == "UP" for row in rows if row[1:2] and row[1] in WEBS):
            return False
    return len(holders()) == 1


def _units():
    return not any(on(TOPOLOGY.hosts(), "systemctl --failed --no-legend").values())


LOOKS = {
    "postgresql": _postgresql,
    "etcd": _etcd,
    "redis": _redis,
    "edge": _edge,
    "rabbitmq": _rabbitmq,
    "units": _units,
}


def lacking():
    """The first thing that is not as it should be, or None: then any one host may be lost. That jobs get through, the
    load shows.
    """
    for name, look in LOOKS.items():
        try:
            if not look():
                return name
        except Exception as exc:
            return f"{name}: {type(exc).__name__}: {exc}"
    return None
