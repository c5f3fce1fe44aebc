"""/healthz names the tier that fails, soon, and without a secret."""

import time

import pytest
from django.db import connection, connections

from jobs import health
from producer.celery import app

from .conftest import REFUSED

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def all_well(use_redis, tiny_redis, worker):
    use_redis(tiny_redis[0])


def failing(client):
    response = client.get("/healthz")
    report = response.json()
    names = {name for name, tier in report["tiers"].items() if tier["status"] != "ok"}
    assert (response.status_code, report["status"]) == ((503, "failing") if names else (200, "ok"))
    assert list(report["tiers"]) == ["postgresql", "redis", "rabbitmq", "worker"]
    assert all(tier["seconds"] >= 0 for tier in report["tiers"].values())
    return {name: report["tiers"][name]["error"] for name in names}


@pytest.mark.usefixtures("all_well")
def test_all_well(client):
    assert failing(client) == {}


def test_no_worker(client, use_redis, tiny_redis):
    use_redis(tiny_redis[0])
    started = time.monotonic()
    assert failing(client) == {"worker": "Unhealthy: no worker answered within 1 s"}
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("all_well")
def test_no_broker(client, use_broker):
    use_broker(f"amqp://django:secret@{REFUSED}/rabbit")
    started = time.monotonic()
    errors = failing(client)
    assert time.monotonic() - started < 1
    assert errors.keys() == {"rabbitmq", "worker"}
    assert "refused" in errors["rabbitmq"]
    assert "secret" not in str(errors)
    assert errors["worker"] == "Unhealthy: unknown, because RabbitMQ is failing"


@pytest.mark.usefixtures("all_well")
def test_a_silent_broker(client, use_broker, silent):
    use_broker(f"amqp://{silent}")
    started = time.monotonic()
    assert failing(client).keys() == {"rabbitmq", "worker"}
    assert time.monotonic() - started < 3


@pytest.mark.usefixtures("worker")
def test_no_redis(client, use_redis):
    use_redis(REFUSED, password="secret")
    errors = failing(client)
    assert errors.keys() == {"redis"}
    assert "refused" in errors["redis"]
    assert "secret" not in str(errors)


@pytest.mark.usefixtures("all_well")
def test_only_the_results_redis_is_down(client, monkeypatch):
    monkeypatch.setenv("CELERY_RESULT_BACKEND", f"redis://{REFUSED}/0")
    monkeypatch.setattr(app, "_backend", app._get_backend())
    assert failing(client).keys() == {"redis"}


@pytest.mark.usefixtures("all_well")
def test_only_the_caches_redis_is_down(client, settings):
    settings.CACHES = {"default": settings.REDIS_CACHE | {"LOCATION": f"redis://{REFUSED}/1"}}
    assert failing(client).keys() == {"redis"}


@pytest.mark.usefixtures("all_well")
def test_no_database(client, monkeypatch):
    monkeypatch.setitem(connections.settings["default"], "NAME", "/nowhere/at/all.sqlite3")
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", {"uri": True})
    errors = failing(client)
    assert errors == {"postgresql": "OperationalError: unable to open database file"}


@pytest.mark.usefixtures("all_well")
def test_a_tier_that_never_answers_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(health, "_postgresql", lambda tiers: time.sleep(1))
    started = time.monotonic()
    assert failing(client)["postgresql"] == "no answer in time"
    assert time.monotonic() - started < 0.8


def test_a_url_in_an_error_loses_its_password():
    tiers = {}
    with health._question(tiers, "x"):
        raise ValueError("cannot open amqp://django:se%2Fcret@host:1/rabbit")
    assert tiers["x"]["error"] == "ValueError: cannot open amqp://***@host:1/rabbit"


def test_live_asks_nobody(client, use_broker, use_redis, django_assert_num_queries):
    use_broker(f"amqp://{REFUSED}")
    use_redis(REFUSED)
    with django_assert_num_queries(0, connection=connection):
        response = client.get("/healthz/live")
    assert (response.status_code, response.content) == (200, b"ok")
    assert response["Content-Type"] == "text/plain"
