"""The tasks, done by a worker that knows no more than their names and arguments."""

import time

import pytest
from celery.app import trace
from celery.contrib.testing.worker import start_worker

from service.celery import app


@pytest.fixture(scope="module", autouse=True)
def worker():
    trace.setup_worker_optimizations(app, "service@worker1")  # puts the name into the results
    with start_worker(app, hostname="service@worker1", perform_ping_check=False, loglevel="ERROR"):
        yield


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [("a", "b", "a es b"), ("", "", " es "), ("Grüße", "🐇\n", "Grüße es 🐇\n"), (1, None, "1 es None")],
)
def test_adding_task_joins(first, second, joined):
    result = app.send_task("adding_task", [first, second])
    assert result.get(timeout=5, interval=0.01) == joined


def test_a_result_names_its_worker():
    result = app.send_task("adding_task", ["a", "b"])
    result.get(timeout=5, interval=0.01)
    assert result.worker == "service@worker1"


def test_add_takes_five_seconds(monkeypatch):
    slept = []
    monkeypatch.setattr(time, "sleep", slept.append)
    assert app.tasks["add"](2, 3) == 5
    assert slept == [5]


def test_an_argument_too_few_is_an_error_not_a_crash():
    with pytest.raises(TypeError, match="second"):
        app.send_task("adding_task", ["a"]).get(timeout=5, interval=0.01)


def test_tasks_have_exactly_these_names():
    assert {name for name in app.tasks if not name.startswith("celery.")} == {"add", "adding_task"}
