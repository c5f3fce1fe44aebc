"""The tasks, done by a worker that knows no more than their names and arguments."""

import json
import time
import urllib.request

import pytest
from amqp.exceptions import InternalError
from kombu import Connection, Queue

from joining.tasks import add
from service.celery import app

from . import settings
from .conftest import rows, until


@pytest.fixture(scope="module", autouse=True)
def worker(run_worker):
    with run_worker() as worker:
        yield worker


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [("a", "b", "a es b"), ("", "", " es "), ("Grüße", "🐇\n", "Grüße es 🐇\n"), (1, None, "1 es None")],
)
def test_adding_task_joins(first, second, joined):
    result = app.send_task("adding_task", [first, second])
    assert result.get(timeout=5, interval=0.01) == joined


def test_adding_task_takes_its_time():
    started = time.monotonic()
    app.send_task("adding_task", ["a", "b"], {"seconds": 1}).get(timeout=5, interval=0.01)
    assert 1 <= time.monotonic() - started < 4


def test_a_result_names_its_worker():
    result = app.send_task("adding_task", ["a", "b"])
    result.get(timeout=5, interval=0.01)
    assert result.worker == "service:first@worker1"


def test_add_takes_five_seconds(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert add(2, 3) == 5
    assert slept == [5]


def test_an_argument_too_few_is_an_error_not_a_crash():
    with pytest.raises(Exception, match=r"TypeError: .* 'second'"):
        app.send_task("adding_task", ["a"]).get(timeout=5, interval=0.01)


def test_tasks_have_exactly_these_names():
    app.loader.import_default_modules()
    names = {name for name in app.tasks if not name.startswith(("celery.", "tests."))}
    assert names == {"add", "adding_task"}


def test_the_connection_to_postgresql_is_kept():
    """Celery would close it before and after each task."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    seen = set()
    for _ in range(20):
        app.send_task("adding_task", ["a", "b"]).get(timeout=5, interval=0.01)
        seen |= set(rows(query))
    assert 0 < len(seen) <= 4  # processes of the worker


# -- RabbitMQ ---------------------------------------------------------------------------------------------------------


def test_a_worker_needs_nothing_that_rabbitmq_will_refuse(worker):
    """The tests' RabbitMQ denies what 4.3 will: such a queue is an error, a global prefetch it just ignores."""
    with Connection(settings.CELERY_BROKER_URL) as broker:
        transient = Queue("transient", durable=False, exclusive=False)(broker.default_channel)
        with pytest.raises(InternalError, match="transient_nonexcl_queues"):
            transient.declare()
    assert app.control.ping(timeout=2, limit=1) == [{"service:first@worker1": {"ok": "pong"}}]
    assert not [line for line in worker.logs() if "not permitted" in line["message"]]

    url = f"http://{settings.HOST}:{settings.MANAGEMENT_PORT}/api/consumers/service"
    logins = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    logins.add_password(None, url, "quintet", "quintet")
    management = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(logins))

    def prefetch():
        with management.open(url, timeout=5) as answer:
            return [one["prefetch_count"] for one in json.load(answer) if one["queue"]["name"] == "service"]

    assert until(prefetch) == [4]  # one for each process
