"""A job and a task that were parked are done after all, once."""

import json

import pytest

from verify import BASE, FIRST, TOPOLOGY, contract, eventually, failure, node, playbook, python_of, visitor
from verify.stream import messages
from verify.tiers import database_host, sql

RUNBOOK = "runbooks/retry_parked/playbook.yml"
WORKERS = TOPOLOGY.hosts("worker")
# As RabbitMQ gives up on a message.
DEAD_LETTER = """
from kombu import Connection
with Connection(given["url"], connect_timeout=5) as connection:
    producer = connection.Producer()
    for headers, body in given["letters"]:
        headers |= {"x-last-death-reason": "delivery_limit", "x-last-death-queue": "service"}
        producer.publish(body, routing_key="parked", headers=headers, serializer="json", correlation_id=headers["id"])
"""


def retry(*arguments):
    result = playbook(RUNBOOK, *arguments)
    assert result.returncode == 0, failure(result)
    return "changed=1" in result.stdout


def job(number):
    return visitor().get(f"{BASE}/api/jobs/{number}", timeout=10).json()


@pytest.fixture
def parked():
    """The id of a job that was parked, and has left its queue; and beside it a task that is no job."""
    for host in WORKERS:
        node(host).check_output("systemctl stop celery-service")
    number = visitor().post(f"{BASE}/api/jobs", json={"first": "a", "second": "b"}, timeout=10).json()["id"]
    eventually(lambda: messages()["service"] == 1, 20)
    node(TOPOLOGY.hosts("rabbitmq")[0]).check_output(
        f"rabbitmqctl purge_queue --vhost {contract('broker_vhost')} service"
    )
    report = {"task": "job_ended", "queue": "results"}
    letters = [
        ({"id": number, "task": "adding_task", "report": report, "attempt": 1}, [["a", "b"], {}, {}]),
        ({"id": f"alone-{number}", "task": "adding_task"}, [["c", "d"], {}, {}]),
    ]
    [producer] = [one for one in contract("projects") if one["name"] == "producer"]
    sent = python_of("producer", WORKERS[0], DEAD_LETTER, url=contract("broker_url", project=producer), letters=letters)
    assert sent.rc == 0, sent.stderr
    eventually(lambda: job(number)["state"] == "parked", 20)
    eventually(lambda: f"alone-{number}" in tasks(), 20)
    yield number
    begin()


def begin():
    for host in WORKERS:
        node(host).check_output("systemctl start celery-service")


def tasks():
    """When each parked task that is no job was sent again, by its id."""
    lines = node(FIRST).check_output("quintet-manage producer jobs parked --json").splitlines()
    return {one["task_id"]: one["retried_at"] for one in map(json.loads, lines)}


def test_what_is_parked_is_done_after_all(parked):
    assert not retry("--check")
    assert job(parked)["state"] == "parked"
    assert retry()
    assert tasks()[f"alone-{parked}"]
    eventually(lambda: messages()["service"] == 2, 20)
    assert not retry()
    begin()
    eventually(lambda: job(parked)["state"] == "done", 30)
    assert job(parked)["result"] == "a es b"
    effects = f"SELECT count(*) FROM joining_joined WHERE task_id = '{parked}'"
    assert sql(database_host(), effects, "service") == "1"
    eventually(lambda: messages()["service"] == 0, 20)


def test_a_project_that_is_not_there_is_refused():
    result = playbook(RUNBOOK, extra={"retry_parked_project": "produce"})
    assert result.returncode != 0
    assert "one of producer, service" in result.stdout
