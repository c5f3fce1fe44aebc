"""A queue is shown, purged when that is meant, and drained; and jobs that were purged come again."""

import pytest

from verify import BASE, FIRST, TOPOLOGY, eventually, node, playbook, visitor
from verify.stream import messages

RUNBOOK = "runbooks/queues/playbook.yml"
WORKERS = TOPOLOGY.hosts("worker")
# What the relay does after five minutes, at once.
SWEEP = """
from datetime import timedelta
from django.utils import timezone
from jobs.models import Job
from jobs.relay import sweep
Job.objects.filter(state="waiting").update(due_at=timezone.now() - timedelta(hours=1))
print(sweep())
"""


def queues(**asked):
    result = playbook(RUNBOOK, extra=asked)
    return result.returncode, " ".join(result.stdout.split())


@pytest.fixture
def waiting():
    """Three jobs whose workers are stopped."""
    for host in WORKERS:
        node(host).check_output("systemctl stop celery-service")
    words = {"first": "a", "second": "b", "work_seconds": 1}
    jobs = [visitor().post(f"{BASE}/api/jobs", json=words, timeout=10).json()["id"] for _ in range(3)]
    eventually(lambda: messages()["service"] == 3, 20)
    yield jobs
    begin()


def begin():
    for host in WORKERS:
        node(host).check_output("systemctl start celery-service")


def test_a_queue_is_purged_and_drained(waiting):
    code, words = queues(queues_state="drained", queues_name="service")
    assert code != 0
    assert "consumers: 0 messages_ready: 3 messages_unacknowledged: 0 name: service" in words
    assert "from which nobody takes anything" in words

    code, words = queues(queues_state="purged", queues_name="service")
    assert code != 0
    assert "3 messages of service would be gone for good" in words
    assert messages()["service"] == 3

    for changed in (1, 0):
        code, words = queues(queues_state="purged", queues_name="service", confirm="service")
        assert code == 0
        assert f"changed={changed}" in words
        # It is counted every five seconds.
        eventually(lambda: messages()["service"] == 0, 20)

    # PostgreSQL has not forgotten them, nor others that somebody may have left waiting.
    node(FIRST).check_output("quintet-manage producer shell --command %s", SWEEP)
    eventually(lambda: messages()["service"] >= 3, 20)
    begin()
    eventually(lambda: queues(queues_state="drained", queues_name="service")[0] == 0, 60)
    eventually(lambda: messages()["service"] == 0, 20)
    for job in waiting:
        assert eventually(
            lambda job=job: visitor().get(f"{BASE}/api/jobs/{job}", timeout=5).json()["state"] == "done", 20
        )


def test_a_queue_that_is_not_there_is_refused():
    code, words = queues(queues_state="purged", queues_name="servce", confirm="servce")
    assert code != 0
    assert "-e queues_name=..., one of" in words
    assert "parked, results, service in the vhost rabbit" in words
