"""What breaks while jobs come in: no accepted job is lost or done twice, and nobody waits for ever.

Each fault is put right in the end, whatever the test finds; the next one begins with a stack that works.
"""

import contextlib
import shlex
import time

import pytest

from verify import BASE, FIRST, TOPOLOGY, contract, eventually, manage, node, visitor
from verify.stream import BROKER, DATABASE, Stream, assert_nothing_lost

WORKER = TOPOLOGY.hosts("worker")[0]
REDIS = TOPOLOGY.hosts("redis")[0]
# A post only needs PostgreSQL, so that no other fault may be felt.
UNDISTURBED_SECONDS = 3


@pytest.fixture(autouse=True)
def healthy():
    """Every tier works, before and after."""
    yield
    eventually(lambda: manage(FIRST, "producer", "roundtrip")["ok"], 60)


def main_process(host, unit):
    return node(host).check_output(f"systemctl show --value --property MainPID {unit}")


def children():
    """The processes of the pool, each of which executes a task at a time."""
    main = main_process(WORKER, "celery-service")
    return node(WORKER).check_output(f"cat /proc/{main}/task/{main}/children").split()


@contextlib.contextmanager
def broken(host, fault, remedy):
    """A host while a fault lasts, under a stream of jobs that began before and goes on for a while after."""
    time.sleep(2)
    node(host).check_output(fault)
    try:
        yield
    finally:
        node(host).check_output(remedy)
    time.sleep(2)


def test_the_worker_is_killed():
    with Stream() as stream:
        for _ in range(2):
            time.sleep(3)
            before = main_process(WORKER, "celery-service")
            node(WORKER).check_output("systemctl kill --signal SIGKILL celery-service")
            eventually(lambda before=before: main_process(WORKER, "celery-service") not in (before, "0"), 30)
        time.sleep(3)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


def test_a_child_of_the_worker_is_killed_in_the_middle_of_a_task():
    with Stream() as stream:
        for _ in range(4):
            time.sleep(1.5)
            node(WORKER).check_output(f"kill -KILL {' '.join(children())}")
        time.sleep(2)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


def test_rabbitmq_restarts():
    with Stream() as stream:
        time.sleep(2)
        node(BROKER).check_output("systemctl restart rabbitmq-server")
        time.sleep(3)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


def test_rabbitmq_is_down_for_a_minute():
    stop, start = "systemctl stop rabbitmq-server", "systemctl start rabbitmq-server"
    with Stream(per_second=3) as stream, broken(BROKER, stop, start):
        time.sleep(60)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


def test_rabbitmq_hangs():
    process = main_process(BROKER, "rabbitmq-server")
    with Stream() as stream, broken(BROKER, f"kill -STOP {process}", f"kill -CONT {process}"):
        time.sleep(15)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


def test_web_and_rabbitmq_are_cut_off_from_each_other():
    # The broker's answers are dropped: for the web host it falls silent, and nothing tells it why. The broker gives the
    # connection up meanwhile, with whatever is still on its way to it.
    lost = f"blackhole {contract('host_address')}"
    close = f"rabbitmqctl --quiet close_all_connections --vhost {contract('broker_vhost')} test"
    with Stream() as stream, broken(BROKER, f"ip route add {lost}", f"ip route del {lost}"):
        time.sleep(10)
        node(BROKER).check_output(close)
        time.sleep(5)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


def test_redis_restarts_and_forgets():
    project = contract("projects")[0]
    tls = "--tls --cert /etc/redis/identity.pem --key /etc/redis/identity.pem --cacert /etc/redis/authorities.pem"
    user = (
        f"REDISCLI_AUTH={shlex.quote(contract('redis_passwords')[project['name']])} redis-cli --user {project['name']}"
    )
    places = {contract("result_backend_port"): 0, contract("cache_port"): 1}
    with Stream() as stream:
        time.sleep(2)
        node(REDIS).check_output("systemctl restart redis-server@results redis-server@cache")
        time.sleep(2)
        for port, more in places.items():
            number = project["redis_database"] + more
            assert node(REDIS).check_output(f"{user} {tls} -p {port} -n {number} FLUSHDB").splitlines()[-1] == "OK"
        time.sleep(2)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


def test_redis_is_down():
    units = "redis-server@results redis-server@cache"
    with Stream() as stream, broken(REDIS, f"systemctl stop {units}", f"systemctl start {units}"):
        time.sleep(15)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS + 2)


def test_postgresql_restarts():
    unit = f"postgresql@{contract('database_version')}-main"
    with Stream() as stream:
        time.sleep(2)
        node(DATABASE).check_output(f"systemctl restart {unit}")
        time.sleep(5)
    # The only fault that a client may notice: nobody else can accept a job.
    assert_nothing_lost(stream, slowest=10, refused=(503,))


def test_a_task_that_kills_its_worker_is_parked_and_its_neighbours_are_done():
    with Stream(per_second=3, work_seconds=0) as stream:
        poison = {"first": "poison", "second": "pill", "work_seconds": 30}
        address = f"{BASE}/api/jobs/{visitor().post(f'{BASE}/api/jobs', json=poison, timeout=5).json()['id']}"

        def parked():
            job = visitor().get(address, timeout=5).json()
            if job["state"] == "waiting":
                node(WORKER).run(f"kill -KILL {' '.join(children())}")
                time.sleep(1)
            return job["state"] == "parked" and job["reason"]

        assert "worker" in eventually(parked, 120)
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)
