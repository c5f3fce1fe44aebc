"""One master of each Redis instance, whatever happens to its host, and what was acknowledged and replicated stays."""

import contextlib
import hashlib
import itertools
import threading
import time

import pytest

from tests.topology import ROOT
from verify import TOPOLOGY, contract, deaf, deploy, eventually, node, playbook, python_of
from verify.stream import Stream

HOSTS = TOPOLOGY.hosts("redis")
ADDRESSES = {contract("host_address", host): host for host in HOSTS}
INSTANCES = {instance["name"]: instance for instance in contract("redis_instances", HOSTS[0])}
PORTS = {name: instance["port"] for name, instance in INSTANCES.items()}
SENTINEL = contract("sentinel_port")
APP_HOSTS = [*TOPOLOGY.hosts("web"), *TOPOLOGY.hosts("worker")]
WORKER = TOPOLOGY.hosts("worker")[0]
PROJECT = contract("projects")[0]
URL = contract("result_backend_url", project=PROJECT)
MAJORITY = len(HOSTS) // 2 + 1
each_instance = pytest.mark.parametrize("name", PORTS)
each_host = pytest.mark.parametrize("host", HOSTS)

# Seconds, from the fault until a client writes again: Sentinel believes it after 3, elects, and HAProxy looks twice.
SLOWEST = 12
# Until who speaks with a host that hears nobody is cut off: HAProxy asks twice, and waits for who is being connected.
CUT_SECONDS = 8


def operator(port):
    """The commands with which somebody on a host becomes `operator`, of whom a group makes the password itself."""
    password = hashlib.sha256(f"{contract('redis_internal_password')} operator".encode()).hexdigest()
    return [f"AUTH operator {password}"]


def cli(host, port, *commands, tls=True):
    """What redis-cli prints on a host, to which commands go on standard input, without the answers to AUTH."""
    secure = "--tls --cacert /etc/redis/authorities.pem --cert /etc/redis/identity.pem --key /etc/redis/identity.pem"
    text = "\n".join(commands)
    return node(host).run(f"timeout 5 redis-cli {secure if tls else ''} -p {port} <<'QUINTET'\n{text}\nQUINTET").stdout


def replication(host, port):
    """What an instance says of itself to `probe`."""
    said = cli(host, port, "AUTH probe probe", "INFO replication")
    return dict(line.strip().split(":", 1) for line in said.splitlines() if ":" in line)


def settled(port):
    """The host of the master, once all others follow it and count."""
    found = {host: replication(host, port) for host in HOSTS}
    [master] = [host for host, info in found.items() if info["role"] == "master"]
    assert found[master]["min_slaves_good_slaves"] == str(len(HOSTS) - 1)
    for host, info in found.items():
        if host != master:
            assert (info["role"], info["master_link_status"]) == ("slave", "up")
            assert ADDRESSES[info["master_host"]] == master
    return master


def sentinel_of(host, name):
    """What the Sentinel of a host knows of a master."""
    lines = cli(host, SENTINEL, *operator(SENTINEL), f"SENTINEL MASTER {name}").split("\n")[1:]
    return dict(zip(lines[::2], lines[1::2], strict=False))


@pytest.fixture(autouse=True)
def whole():
    """All hosts take part, before and after."""
    yield
    for port in PORTS.values():
        eventually(lambda port=port: settled(port), 60)


# -- As it is ---------------------------------------------------------------------------------------------------------


@each_instance
def test_there_is_one_master_and_the_others_follow_it(name):
    master = eventually(lambda: settled(PORTS[name]), 30)
    for host in HOSTS:
        known = sentinel_of(host, name)
        assert ADDRESSES[known["ip"]] == master
        assert known["flags"] == "master"
        assert int(known["quorum"]) == MAJORITY
        assert (int(known["num-slaves"]), int(known["num-other-sentinels"])) == (len(HOSTS) - 1,) * 2
        times = [known[key] for key in ("down-after-milliseconds", "failover-timeout", "parallel-syncs")]
        assert times == ["3000", "15000", "1"]


@each_host
@each_instance
def test_each_host_runs_what_the_contract_says(host, name):
    settings = {
        "maxmemory": INSTANCES[name]["maxmemory_mb"] * 1024 * 1024,
        "maxmemory-policy": INSTANCES[name]["maxmemory_policy"],
        "appendonly": INSTANCES[name]["appendonly"],
        "min-replicas-to-write": 1,
        "min-replicas-max-lag": 3,
        "tls-replication": "yes",
        "port": 0,
    }
    said = cli(host, PORTS[name], *operator(PORTS[name]), *(f"CONFIG GET {key}" for key in settings)).split("\n")[1:]
    assert dict(zip(said[::2], said[1::2], strict=False)) == {key: str(value) for key, value in settings.items()}


@each_host
def test_who_checks_learns_who_is_master_and_nothing_else(host):
    for port in PORTS.values():
        said = cli(host, port, "AUTH probe x", "GET x", "INFO", "CONFIG GET port", "PUBLISH x y", "PING").split("\n")
        said = [line for line in said if line]
        assert said[0] == "OK"
        assert len(said) == 6
        assert all(line.startswith("NOPERM") for line in said[1:]), said
    assert "WRONGPASS" in cli(host, SENTINEL, "AUTH probe x")


@each_host
@pytest.mark.parametrize("port", [*PORTS.values(), SENTINEL])
def test_nobody_is_heard_without_a_certificate_or_a_name(host, port):
    assert cli(host, port, "PING", tls=False).strip() in ("", "Error: Server closed the connection")
    bare = node(host).run(f"echo PING | timeout 5 redis-cli --tls --cacert /etc/redis/authorities.pem -p {port}")
    assert "PONG" not in bare.stdout + bare.stderr
    assert "NOAUTH" in cli(host, port, "PING")
    assert "WRONGPASS" in cli(host, port, "AUTH sentinel sentinel")


@each_host
def test_passwords_of_the_group_are_in_no_argument_and_no_open_file(host):
    machine = node(host)
    words = machine.check_output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n' || true")
    for name in ("replica", "sentinel", "operator"):
        assert hashlib.sha256(f"{contract('redis_internal_password')} {name}".encode()).hexdigest() not in words
    assert not machine.check_output("find /etc/redis /var/lib/redis -type f -perm /007 -not -name authorities.pem")


# -- What breaks ------------------------------------------------------------------------------------------------------

WRITE = """
import redis, time
client = redis.Redis.from_url(given["url"], socket_timeout=2, socket_connect_timeout=2)
deadline, number = time.time() + given["seconds"], 0
while time.time() < deadline:
    number += 1
    try:
        client.set(f"{given['key']}:{number}", number, ex=600)
        print(number, time.time(), flush=True)
    except redis.RedisError:
        time.sleep(0.05)
    time.sleep(0.02)
"""
READ = """
import redis
client = redis.Redis.from_url(given["url"], socket_timeout=5)
print(*(number for number in given["numbers"] if client.get(f"{given['key']}:{number}") is None))
"""


class Writes:
    """A client that writes through HAProxy all the time, for so many seconds; what was acknowledged, and when."""

    def __init__(self, seconds):
        self.key, self.acknowledged = f"verify:{time.time()}", {}
        self.thread = threading.Thread(target=self.run, args=[seconds])

    def run(self, seconds):
        result = python_of("service", WORKER, WRITE, url=URL, seconds=seconds, key=self.key)
        lines = (line.split() for line in result.stdout.splitlines())
        self.acknowledged = {int(number): float(at) for number, at in lines}

    def __enter__(self):
        self.thread.start()
        time.sleep(3)
        return self

    def __exit__(self, *_):
        self.thread.join()

    def gap(self):
        """The longest time, in seconds, in which nothing was acknowledged."""
        times = sorted(self.acknowledged.values())
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def lost(self):
        """Of what was acknowledged, what is not there."""
        numbers = sorted(self.acknowledged)
        result = python_of("service", WORKER, READ, url=URL, numbers=numbers, key=self.key)
        assert result.rc == 0, result.stderr
        return [int(number) for number in result.stdout.split()]


@contextlib.contextmanager
def stopped(host, unit):
    node(host).check_output(f"systemctl kill --signal SIGSTOP {unit}")
    try:
        yield
    finally:
        node(host).check_output(f"systemctl kill --signal SIGCONT {unit}")


@pytest.mark.slow
def test_a_master_that_is_killed_comes_back_or_is_replaced():
    master = eventually(lambda: settled(PORTS["results"]), 30)
    with Writes(20) as writes:
        node(master).check_output("systemctl kill --signal SIGKILL redis-server@results")
    assert writes.gap() <= SLOWEST
    assert writes.lost() == []


@pytest.mark.slow
def test_a_master_that_hangs_is_replaced_and_follows_when_it_wakes():
    master = eventually(lambda: settled(PORTS["results"]), 30)
    with Writes(40) as writes:
        with stopped(master, "redis-server@results"):
            time.sleep(15)
        assert eventually(lambda: settled(PORTS["results"]), 40) != master
    assert writes.gap() <= SLOWEST
    # What it acknowledged when it was stopped may not have left it.
    assert len(writes.lost()) <= 2


@pytest.mark.slow
def test_whoever_speaks_with_a_host_that_is_deaf_is_cut_off_from_all_its_services():
    """HAProxy finds several of them down at the same time, and takes leave of each by itself. So does its process of
    before a reload.
    """
    with Stream():
        time.sleep(3)
        for host in APP_HOSTS:
            node(host).check_output("systemctl reload haproxy")
        time.sleep(3)
    master = eventually(lambda: settled(PORTS["results"]), 30)
    ask = f"ss -Htn state established dst {contract('host_address', master)}"

    def spoken_with():
        lines = [line for host in APP_HOSTS for line in node(host).check_output(ask).splitlines()]
        return {int(line.split()[3].rpartition(":")[2]) for line in lines}

    assert spoken_with() >= {PORTS["results"], contract("broker_tls_port")}
    with deaf(master):
        eventually(lambda: not spoken_with(), CUT_SECONDS)


def test_a_deploy_leaves_the_master_where_it_is():
    """Also where what a process has read was written right before it began."""
    began = "systemctl show --timestamp=us+utc --value --property=ExecMainStartTimestamp redis-server@"
    for host in HOSTS:
        first = min(node(host).check_output(began + name).split(" ", 1)[1] for name in PORTS)
        node(host).check_output(
            f"rm -f /run/quintet/reloaded/redis-server@*; touch --date='{first}' /etc/redis/users.acl"
        )
    master = eventually(lambda: settled(PORTS["results"]), 30)
    answer = cli(master, SENTINEL, *operator(SENTINEL), "SENTINEL FAILOVER results")
    assert answer.split() == ["OK", "OK"]
    moved = eventually(lambda: settled(PORTS["results"]) not in (None, master) and settled(PORTS["results"]), 60)
    changes, output = deploy()
    assert changes == 0, output
    assert settled(PORTS["results"]) == moved


@pytest.mark.slow
def test_a_restart_of_all_moves_the_master_once_and_loses_nothing():
    """What cannot change in a running process does so in one after the other."""
    eventually(lambda: settled(PORTS["results"]), 30)
    since, moves = int(time.time()), "grep -c '+switch-master results' || true"
    journal = f"journalctl --unit redis-sentinel@quintet --since @{since} --output cat --no-pager | {moves}"
    with Writes(90) as writes:
        for number, extra in enumerate(({"redis_settings": {"hz": 20}}, None), start=1):
            deploy(extra=extra)
            eventually(lambda: settled(PORTS["results"]), 30)
            assert {node(host).check_output(journal) for host in HOSTS} == {str(number)}
    assert writes.gap() <= SLOWEST
    assert writes.lost() == []


@pytest.mark.slow
def test_a_master_that_lost_its_data_is_none_again_and_follows_nobody_who_follows_it():
    """While no other can take over, as most Sentinels are away, a deploy says so. Then it follows who has."""
    master = eventually(lambda: settled(PORTS["results"]), 30)
    other = next(host for host in HOSTS if host != master)
    node(other).check_output("systemctl stop redis-sentinel@quintet")
    node(master).check_output("systemctl stop redis-sentinel@quintet 'redis-server@*' && rm -rf /var/lib/redis/*")
    try:
        result = playbook("deploy.yml", "--limit", master)
        assert result.returncode != 0
        assert "This host has lost what it had of results" in " ".join(result.stdout.split())
        assert node(master).run("systemctl is-active redis-server@results").rc != 0
    finally:
        node(other).check_output("systemctl start redis-sentinel@quintet")
    third = next(host for host in HOSTS if host not in (master, other))
    eventually(lambda: ADDRESSES[sentinel_of(third, "results")["ip"]] != master, 150)
    deploy(limit=master)
    assert eventually(lambda: settled(PORTS["results"]), 60) != master
    assert deploy()[0] == 0


def test_what_the_daemons_write_is_theirs():
    roles = "\n".join(path.read_text() for path in (ROOT / "roles/redis").rglob("*.j2"))
    assert "sentinel monitor" not in roles
    for host in HOSTS:
        assert "sentinel known-replica" in node(host).check_output("cat /var/lib/redis/sentinel.conf")
