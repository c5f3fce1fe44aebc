"""Workers pause under a stream of jobs: nobody is refused, nothing is lost, and a deploy leaves them as they are."""

import time

import pytest

from verify import TOPOLOGY, eventually, failure, node, playbook
from verify.stream import Stream, assert_nothing_lost, messages

RUNBOOK = "runbooks/workers/playbook.yml"
WORKERS = TOPOLOGY.hosts("worker")
UNDISTURBED_SECONDS = 3


def workers(state, **more):
    result = playbook(RUNBOOK, extra={"workers_state": state, **more})
    assert result.returncode == 0, failure(result)
    return result.stdout.count("changed=1")


def states(unit):
    return {node(host).run(f"systemctl is-active {unit}").stdout.strip() for host in WORKERS}


@pytest.fixture
def resumed():
    yield
    workers("running")


@pytest.mark.usefixtures("resumed")
def test_tasks_wait_while_workers_pause():
    with Stream() as stream:
        time.sleep(1)
        assert workers("paused", workers_project="service") == len(WORKERS)
        assert states("celery-service") == {"inactive"}
        assert states("celery-producer") == {"active"}, "another project was paused"
        before = messages()["service"]
        assert workers("paused", workers_project="service") == 0
        # What is accepted waits; it is counted every five seconds.
        eventually(lambda: messages()["service"] > before, 20)
        result = playbook("deploy.yml", "--limit", "worker")
        assert result.returncode == 0, failure(result)
        assert "changed=1" not in result.stdout
        assert "Paused, and left so: celery-service.service" in " ".join(result.stderr.split())
        assert states("celery-service") == {"inactive"}
        assert workers("running") == len(WORKERS)
        assert states("celery-service") == {"active"}
        time.sleep(1)
    assert workers("running") == 0
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


@pytest.mark.parametrize("asked", [{"workers_state": "stopped"}, {"workers_state": "paused", "workers_project": "x"}])
def test_what_cannot_be_is_refused(asked):
    result = playbook(RUNBOOK, extra=asked)
    assert result.returncode != 0
    assert "-e workers_state=paused or -e workers_state=running" in result.stdout
