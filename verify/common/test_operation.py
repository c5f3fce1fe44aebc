"""What operators do to running services, and what a deploy does that was killed before it finished."""

import threading
import time

import pytest

from verify import BASE, FIRST, TOPOLOGY, deploy, eventually, manage, node, together, visitor
from verify.tiers import REPLICATED

WORKERS = TOPOLOGY.hosts("worker")


def test_a_restart_cuts_no_task_off():
    """Of all workers at once."""
    since = node(WORKERS[0]).check_output("date '+%Y-%m-%d %H:%M:%S'")

    def journal():
        read = f"journalctl --unit celery-service --since '{since}' --output cat"
        return "".join(node(host).check_output(read) for host in WORKERS)

    found = {}
    # Five seconds long; the restart comes in its middle.
    call = threading.Thread(target=lambda: found.update(manage(FIRST, "producer", "call", "add", "2", "40")))
    call.start()
    eventually(lambda: "Task add[" in journal(), 20)
    together(WORKERS, "systemctl restart celery-service")
    call.join()
    assert found["result"] == 42
    seen = [line for line in journal().splitlines() if "Task add[" in line]
    assert ["received" in line for line in seen] == [True, False], seen


def test_a_restart_of_gunicorn_fails_no_request():
    session, statuses, stop = visitor(), [], threading.Event()

    def ask():
        while not stop.is_set():
            statuses.append(session.get(f"{BASE}/healthz/live", timeout=20).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(2):
            node(FIRST).check_output("systemctl restart gunicorn-producer.service")
            time.sleep(1)
    finally:
        stop.set()
        asking.join()
    assert len(statuses) > 20
    assert set(statuses) == {200}


@pytest.mark.alike
def test_a_deploy_killed_before_a_restart_is_put_right():
    # The file is newer than the process, as after a deploy that wrote it and was killed: nobody will notify a handler.
    # A group of Redis has no such file: what its daemons write is theirs.
    tier, unit, file = (
        ("etcd", "etcd", "/etc/etcd/quintet.yml")
        if REPLICATED
        else ("redis", "redis-server@cache", "/etc/redis/redis-cache.conf")
    )
    host = node(TOPOLOGY.hosts(tier)[0])
    before = host.check_output(f"systemctl show --value --property MainPID {unit}")
    host.check_output(f"touch {file}")
    changes, _ = deploy(limit=tier)
    assert changes == 1
    assert host.check_output(f"systemctl show --value --property MainPID {unit}") != before
    assert deploy(limit=tier)[0] == 0
