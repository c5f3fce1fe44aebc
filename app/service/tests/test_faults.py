"""What fails around a worker: each time a worker of its own, and a task that takes effect once all the same."""

import signal
import time

import pytest
from kombu import Connection

from . import settings
from .conftest import effects, rows, until

BEGAN = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle in transaction'
"""

pytestmark = pytest.mark.usefixtures("nothing_waits")


def begins(worker, *tasks):
    """Wait until a worker is in the middle of these tasks."""
    until(lambda: set(tasks) <= {line.get("job") for line in worker.logs()})
    until(lambda: len(rows(BEGAN)) >= len(tasks))


def test_a_worker_that_dies_loses_nothing(run_worker, send, messages):
    with run_worker() as worker:
        task_id = send("adding_task", ["a", "b"], kwargs={"seconds": 1})
        begins(worker, task_id)
        worker.kill()
    assert effects(task_id) == 0
    with run_worker():
        assert messages.of(task_id)[0]["state"] == "done"
        assert effects(task_id) == 1


def test_a_worker_that_is_stopped_finishes_its_task(run_worker, send, messages):
    with run_worker() as worker:
        task_id = send("adding_task", ["a", "b"], kwargs={"seconds": 1})
        begins(worker, task_id)
        worker.process.send_signal(signal.SIGTERM)
        [report] = messages.of(task_id)
        assert report["state"] == "done"
        assert worker.process.wait(timeout=10) == 0
    with Connection(settings.CELERY_BROKER_URL) as broker:  # it was acknowledged
        assert broker.default_channel.queue_declare("service", passive=True).message_count == 0


def test_a_report_that_did_not_arrive_is_sent_again(run_worker, broker, send, messages):
    with run_worker(CELERY_BROKER_URL=broker.url) as worker:
        task_id = send("adding_task", ["a", "b"], kwargs={"seconds": 1})
        begins(worker, task_id)
        broker.fail("refuse")
        until(lambda: effects(task_id) or [1 for line in worker.logs() if "connection loss" in line["message"]], 30)
        time.sleep(0.5)
        assert not [report for report in messages.reports if report["id"] == task_id]
        broker.recover()
        assert messages.of(task_id, seconds=30)[0]["state"] == "done"
        assert effects(task_id) == 1


def test_a_connection_that_did_not_confirm_is_not_used_again(run_worker, broker, send, messages):
    """A confirmation that arrives late would be taken for the next message's."""
    with run_worker("--concurrency", "1", CELERY_BROKER_URL=broker.url, REPORT_SECONDS="10") as worker:
        messages.of(send("adding_task", ["a", "b"]))
        broker.deafen_latest()  # the one on which reports go
        task_id = send("adding_task", ["a", "b"])
        assert messages.of(task_id)[0]["state"] == "done"
        assert effects(task_id) == 1
        assert [line for line in worker.logs() if line.get("job") == task_id and "Could not report" in line["message"]]


def test_postgresql_is_waited_for(run_worker, postgresql, send, messages):
    postgresql.fail("refuse")
    with run_worker(DATABASE_URL=postgresql.url) as worker:
        task_id = send("adding_task", ["a", "b"])
        until(lambda: [1 for line in worker.logs() if line["message"].startswith("PostgreSQL failed")])
        postgresql.recover()
        assert messages.of(task_id)[0]["state"] == "done"
        assert effects(task_id) == 1
        assert len([1 for line in worker.logs() if line.get("job") == task_id and "received" in line["message"]]) == 1


def test_a_task_is_given_back_when_postgresql_stays_away(run_worker, postgresql, send, messages):
    postgresql.fail("refuse")
    with run_worker(DATABASE_URL=postgresql.url, PATIENCE_SECONDS="0"):
        task_id = send("adding_task", ["a", "b"])
        assert messages.parked_of(task_id) == ("delivery_limit", 1)


@pytest.mark.parametrize("fault", ["refuse", "silent"])
def test_redis_delays_no_task_and_fails_none(run_worker, redis, send, messages, fault):
    with run_worker(CELERY_RESULT_BACKEND=redis.url) as worker:
        messages.of(send("adding_task", ["a", "b"]))
        redis.fail(fault)
        started = time.monotonic()
        tasks = {send("adding_task", ["a", "b"]) for _ in range(40)}
        for task_id in tasks:
            assert messages.of(task_id)[0]["state"] == "done"
        assert time.monotonic() - started < 10  # one short wait for each of the four processes, not one for each task
        until(lambda: tasks <= {line.get("job") for line in worker.logs() if "succeeded in" in line["message"]})
        assert not [line for line in worker.logs() if line["level"] not in ("INFO", "WARNING")]
