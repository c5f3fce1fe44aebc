"""Once means once, and every end is reported or parked: one worker for all of it, which must survive it."""

import time
import uuid
from datetime import datetime
from types import SimpleNamespace

import pytest
from django.db import connection
from kombu import Connection, Exchange, Queue

from service.celery import app

from .conftest import effects, execution, rows, until


@pytest.fixture(scope="module", autouse=True)
def worker(run_worker):
    with run_worker() as worker:
        yield worker


@pytest.fixture(scope="module", autouse=True)
def poison(worker, send, tmp_path_factory):
    """A task that kills its process six times. It takes Celery up to 5 s to see that one is dead: it dies meanwhile."""
    runs = tmp_path_factory.mktemp("poison") / "runs"
    neighbours = [send("adding_task", ["a", "b"]) for _ in range(10)]
    task_id = send("tests.die", [str(runs), 6])
    neighbours += [send("adding_task", ["a", "b"], kwargs={"seconds": 0.1}) for _ in range(30)]
    return SimpleNamespace(id=task_id, runs=runs, neighbours=neighbours)


@pytest.fixture(autouse=True)
def survives(worker, send, messages):
    """After each test the worker still works, and nothing is left in the queue."""
    yield
    assert messages.of(send("adding_task", ["a", "b"]))[0]["state"] == "done"
    with Connection(app.conf.broker_url) as broker:
        until(lambda: broker.default_channel.queue_declare("service", passive=True).message_count == 0)


@pytest.fixture
def runs(tmp_path):
    """A file in which tests' tasks count their runs, and the count: `runs()`."""
    path = tmp_path / "runs"

    def count():
        return path.read_text().count("run") if path.exists() else 0

    count.path = str(path)
    return count


# -- Reports ----------------------------------------------------------------------------------------------------------


def test_success_is_reported(send, messages):
    task_id = send("adding_task", ["a", "b"])
    [report] = messages.of(task_id)
    started, finished = (datetime.fromisoformat(report.pop(name)) for name in ("started_at", "finished_at"))
    assert started.tzinfo
    assert 0 <= (finished - started).total_seconds() < 5
    assert report == {
        "task": "ended",
        "id": task_id,
        "attempt": 1,
        "state": "done",
        "result": "a es b",
        "reason": "",
        "worker": "worker1",
    }
    assert effects(task_id) == 1


def test_failure_is_reported_and_its_effect_is_not_there(send, messages, runs):
    task_id = send("tests.fail", [runs.path])
    [report] = messages.of(task_id)
    assert (report["state"], report["reason"], report["result"]) == ("failed", "ValueError: asked to fail", None)
    assert (runs(), effects(task_id)) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("silent", "KeyError"),
        ("unpicklable", "Unpicklable: this and that"),
        ("memory", "MemoryError: no more"),
        ("nul", "ValueError: a\N{REPLACEMENT CHARACTER}b"),
        ("surrogate", "ValueError: a?b"),
        ("long", f"ValueError: {'x' * 1988}"),
    ],
)
def test_any_exception_is_a_reason(send, messages, runs, kind, reason):
    [report] = messages.of(send("tests.fail", [runs.path, kind]))
    assert (report["state"], report["reason"]) == ("failed", reason)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("object", "TypeError"), ("nan", "DataError"), ("nul", "DataError"), ("surrogate", "DataError")],
)
def test_a_result_that_cannot_be_stored_is_a_failure(send, messages, runs, kind, reason):
    task_id = send("tests.give", [runs.path, kind])
    [report] = messages.of(task_id)
    assert report["state"] == "failed"
    assert report["reason"].startswith(reason)
    assert effects(task_id) == 0


def test_a_text_that_cannot_be_stored_is_a_failure(send, messages):
    [report] = messages.of(send("adding_task", ["a\0", "b"]))
    assert report["state"] == "failed"
    assert "NUL" in report["reason"]


def test_arguments_that_do_not_fit_are_a_failure(send, messages):
    [report] = messages.of(send("adding_task", ["a"]))
    assert report["state"] == "failed"
    assert "'second'" in report["reason"]


def test_a_task_without_a_report_works_too(send, messages):
    task_id = send("adding_task", ["a", "b"], report=None)
    assert app.AsyncResult(task_id).get(timeout=5, interval=0.01) == "a es b"
    assert effects(task_id) == 1
    messages.quiet()
    assert not [report for report in messages.reports if report["id"] == task_id]


def test_a_task_of_plain_celery_works_too():
    result = app.send_task("adding_task", ["a", "b"], task_id=f"any text {uuid.uuid4()}")
    assert result.get(timeout=5, interval=0.01) == "a es b"


@pytest.mark.parametrize(
    "headers",
    [
        {"report": "ended"},
        {"report": {"task": "ended"}},
        {"report": {"task": "ended", "queue": None}},
        {"attempt": "one"},
        {"attempt": -1},
        {"attempt": 2**15},
    ],
)
def test_headers_that_make_no_sense_park_the_task(messages, headers):
    task_id = app.send_task("adding_task", ["a", "b"], headers=headers).id
    assert messages.parked_of(task_id) == ("rejected", 1)
    assert effects(task_id) == 0


def test_a_report_without_its_queue_is_not_lost(send, messages):
    """RabbitMQ confirms what it cannot route, and drops it, unless it is asked not to."""
    name = f"later-{uuid.uuid4()}"
    task_id = send("adding_task", ["a", "b"], report=name)
    until(lambda: effects(task_id))
    time.sleep(0.3)
    with Connection(app.conf.broker_url) as broker:
        late = Queue(name, Exchange(""), name, queue_arguments={"x-queue-type": "quorum"})(broker.default_channel)
        late.declare()
        message = until(late.get)
        assert message.decode()[1]["id"] == task_id
        message.ack()
        late.delete()
    assert effects(task_id) == 1


def test_a_report_that_nobody_takes_parks_the_task(send, messages):
    task_id = send("adding_task", ["a", "b"], report=f"never-{uuid.uuid4()}")
    assert messages.parked_of(task_id, seconds=30) == ("delivery_limit", 1)
    assert effects(task_id) == 1


# -- Duplicates -------------------------------------------------------------------------------------------------------


def test_a_duplicate_gets_the_stored_result(send, messages):
    task_id = send("adding_task", ["a", "b"])
    [first] = messages.of(task_id)
    send("adding_task", ["a", "b"], task_id=task_id)
    assert messages.of(task_id, 2) == [first, first]
    assert effects(task_id) == 1


def test_duplicates_at_the_same_time_take_effect_once(send, messages):
    task_id = str(uuid.uuid4())
    started = time.monotonic()
    for _ in range(3):
        send("adding_task", ["a", "b"], task_id=task_id, kwargs={"seconds": 1})
    first, *others = messages.of(task_id, 3)
    assert others == [first, first]
    assert effects(task_id) == 1
    assert time.monotonic() - started < 3


def test_a_failure_is_kept_for_its_attempt(send, messages, runs):
    task_id = send("tests.flaky", [runs.path, 2])
    [failed] = messages.of(task_id)
    assert (failed["state"], failed["attempt"]) == ("failed", 1)

    send("tests.flaky", [runs.path, 2], task_id=task_id)
    assert messages.of(task_id, 2)[1] == failed
    assert runs() == 1

    send("tests.flaky", [runs.path, 2], task_id=task_id, attempt=2)
    done = messages.of(task_id, 3)[2]
    assert (done["state"], done["attempt"], done["result"], done["reason"]) == ("done", 2, "at last", "")
    assert (runs(), effects(task_id)) == (2, 1)

    send("tests.flaky", [runs.path, 9], task_id=task_id, attempt=3)
    assert messages.of(task_id, 4)[3] == done
    assert (runs(), effects(task_id)) == (2, 1)


def test_a_failure_of_an_earlier_attempt_does_not_replace_a_later_one(send, messages, runs):
    task_id = send("tests.flaky", [runs.path, 9], attempt=5)
    messages.of(task_id)
    send("tests.flaky", [runs.path, 9], task_id=task_id, attempt=4)
    assert [report["attempt"] for report in messages.of(task_id, 2)] == [5, 5]
    assert runs() == 1


def test_a_retry_of_celery_keeps_its_report(send, messages, runs):
    task_id = send("tests.retried", [runs.path])
    [report] = messages.of(task_id)
    assert (report["state"], report["result"]) == ("done", "at last")
    assert (runs(), effects(task_id)) == (2, 1)


# -- Limits and deaths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["sleep", "query"])
def test_the_soft_time_limit_is_a_failure_with_a_reason(send, messages, runs, how):
    task_id = send("tests.slow", [runs.path, how], soft_time_limit=0.5, time_limit=20)
    [report] = messages.of(task_id)
    assert (report["state"], report["reason"]) == ("failed", "It took longer than 0.5 seconds.")
    assert (runs(), effects(task_id)) == (1, 0)


def test_the_hard_time_limit_parks_at_once(send, messages, runs):
    task_id = send("tests.slow", [runs.path, "deaf"], soft_time_limit=0.5, time_limit=1)
    assert messages.parked_of(task_id) == ("rejected", 1)
    assert (runs(), effects(task_id), execution(task_id)) == (1, 0, None)


def test_a_task_whose_process_dies_comes_again(send, messages, runs):
    task_id = send("tests.die", [runs.path, 1])
    [report] = messages.of(task_id)
    assert (report["state"], report["result"]) == ("done", "alive")
    assert (runs(), effects(task_id)) == (2, 1)


def test_a_poison_task_is_parked_and_takes_no_neighbour_with_it(poison, send, messages):
    assert messages.parked_of(poison.id, seconds=40) == ("delivery_limit", 1)
    assert poison.runs.read_text().count("run") == 6  # delivered, and again as often as the policy permits
    assert (effects(poison.id), execution(poison.id)) == (0, None)
    for neighbour in poison.neighbours:
        assert messages.of(neighbour)[0]["state"] == "done"
        assert effects(neighbour) == 1
    assert {message.headers.get("id") for message in messages.parked}.isdisjoint(poison.neighbours)

    send("tests.die", [str(poison.runs), 6], task_id=poison.id, attempt=2)
    [report] = messages.of(poison.id)
    assert (report["state"], report["attempt"]) == ("done", 2)


def test_an_unknown_task_is_parked(send, messages):
    assert messages.parked_of(send("no_such_task", [])) == ("rejected", 1)


@pytest.mark.parametrize(
    ("body", "content_type"), [(b"no json", "application/json"), (b"\x80\x02.", "application/x-python-serialize")]
)
@pytest.mark.parametrize("name", ["adding_task", None])
def test_what_cannot_be_read_is_parked(messages, body, content_type, name):
    task_id = str(uuid.uuid4())
    with Connection(app.conf.broker_url) as broker:
        broker.default_channel.basic_publish(
            broker.default_channel.prepare_message(
                body,
                content_type=content_type,
                content_encoding="utf-8",
                headers={"task": name, "id": task_id, "lang": "py"} if name else {"some": "header"},
                properties={"correlation_id": task_id},
            ),
            exchange="",
            routing_key="service",
        )
        assert messages.parked_of(task_id) == ("rejected", 1)


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_a_lost_connection_to_postgresql_is_not_the_tasks_fault(send, messages):
    task_id = send("adding_task", ["a", "b"], kwargs={"seconds": 1})
    terminate = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
          AND state = 'idle in transaction' AND now() - state_change > interval '0.3 s'
    """
    until(lambda: rows(terminate))
    [report] = messages.of(task_id)
    assert report["state"] == "done"
    assert effects(task_id) == 1


def test_a_member_of_postgresql_that_takes_no_writes_is_not_the_tasks_fault(worker, send, messages):
    name = connection.settings_dict["NAME"]
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        try:
            cursor.execute(f"SELECT pg_terminate_backend(pid) {others}")
            task_id = send("adding_task", ["a", "b"])
            until(lambda: [1 for line in worker.logs() if "read-only transaction" in line["message"]])
        finally:
            cursor.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    [report] = messages.of(task_id)
    assert report["state"] == "done"
    assert effects(task_id) == 1


# -- Logs -------------------------------------------------------------------------------------------------------------


def test_each_line_of_the_log_is_json_with_its_job(worker, poison, send, messages, runs):
    failed = send("tests.fail", [runs.path])
    messages.of(failed)
    lines = worker.logs()  # which reads nothing but JSON
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys()
    for task_id in (failed, poison.id):
        assert [line for line in lines if line.get("job") == task_id and "received" in line["message"]]
    [failure] = [line for line in lines if line.get("job") == failed and line["logger"] == "joining.once"]
    assert "ValueError: asked to fail" in failure["exc_info"]
    [ready] = [line for line in lines if line["message"].endswith("ready.")]
    assert "job" not in ready
