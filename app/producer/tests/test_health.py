"""The health of the tiers: which one fails, soon, for everybody; why, only for staff and operators."""

import json
import signal
import threading
import time
from io import StringIO

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from django.test import Client

from jobs import health
from producer.celery import app

from .conftest import REFUSED, until

pytestmark = pytest.mark.django_db(transaction=True)

TIERS = ["postgresql", "redis", "rabbitmq", "worker"]


@pytest.fixture(autouse=True)
def no_answer_is_fresh(monkeypatch):
    """Each question is asked anew."""
    monkeypatch.setattr(health, "FRESH_SECONDS", 0)


@pytest.fixture
def staff():
    """A client of somebody who is."""
    client = Client()
    client.force_login(get_user_model().objects.create_user("operator", is_staff=True))
    return client


@pytest.fixture
def all_well(service, home):
    """Workers for both queues."""


def failing(client, path="/healthz", tiers=TIERS):
    """The tiers that fail, with what is told about them."""
    response = client.get(path)
    report = response.json()
    found = {name: tier for name, tier in report["tiers"].items() if tier["status"] != "ok"}
    assert (response.status_code, report["status"]) == ((503, "failing") if found else (200, "ok"))
    assert list(report["tiers"]) == tiers
    assert all(tier["seconds"] >= 0 for tier in report["tiers"].values())
    assert "no-store" in response["Cache-Control"]
    return found


def errors(client):
    """The same as staff reads it."""
    return {name: tier["error"] for name, tier in failing(client).items()}


@pytest.mark.usefixtures("all_well")
def test_all_well(client, stopwatch):
    assert failing(client) == {}
    assert stopwatch() < 1


@pytest.mark.usefixtures("home")
def test_nobody_does_jobs(staff, stopwatch):
    assert errors(staff) == {"worker": "Unhealthy: nobody takes anything from the queue service"}
    assert stopwatch() < 1


@pytest.mark.usefixtures("service")
def test_nobody_brings_results_home(staff):
    assert errors(staff) == {"worker": "Unhealthy: nobody takes anything from the queue results"}


@pytest.mark.usefixtures("home")
def test_a_worker_that_hangs(staff, service, stopwatch):
    """RabbitMQ still believes in it, for some heartbeats."""
    service.process.send_signal(signal.SIGSTOP)
    try:
        assert errors(staff) == {"worker": "Unhealthy: no worker answered within 1 s"}
        assert stopwatch() < 3
    finally:
        service.process.send_signal(signal.SIGCONT)


@pytest.mark.usefixtures("all_well")
def test_no_broker(staff, use_broker, stopwatch):
    use_broker(f"amqp://quintet:secret@{REFUSED}/rabbit")
    found = errors(staff)
    assert stopwatch() < 1
    assert found.keys() == {"rabbitmq", "worker"}
    assert "refused" in found["rabbitmq"]
    assert "secret" not in str(found)
    assert found["worker"] == "Unhealthy: unknown, because RabbitMQ is failing"


@pytest.mark.usefixtures("all_well")
def test_a_silent_broker(client, use_broker, silent, stopwatch):
    use_broker(f"amqp://{silent}")
    assert failing(client).keys() == {"rabbitmq", "worker"}
    assert stopwatch() < 3


@pytest.mark.usefixtures("all_well")
def test_a_broker_that_stops_speaking_in_between(client, use_broker, proxy, monkeypatch, stopwatch):
    way, ping = proxy("CELERY_BROKER_URL"), app.control.ping

    def hush(**options):
        way.hush()
        return ping(**options)

    monkeypatch.setattr(app.control, "ping", hush)
    use_broker(way.url)
    assert failing(client).keys() == {"worker"}
    assert stopwatch() < health.PATIENCE_SECONDS + 0.5
    # And nobody is left behind, waiting for ever.
    until(lambda: "health" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.usefixtures("all_well")
def test_no_redis(staff, use_redis):
    use_redis(REFUSED, password="secret")
    found = errors(staff)
    assert found.keys() == {"redis"}
    assert "refused" in found["redis"]
    assert "secret" not in str(found)


@pytest.mark.usefixtures("all_well")
def test_a_silent_redis(staff, use_redis, silent, stopwatch):
    use_redis(silent)
    assert errors(staff).keys() == {"redis"}
    assert stopwatch() < 5


@pytest.mark.usefixtures("all_well")
@pytest.mark.parametrize("which", ["cache", "results"])
def test_one_redis_of_two(client, settings, use_redis, which):
    caches = settings.CACHES
    use_redis(REFUSED)
    if which == "results":
        settings.CACHES = caches
    assert failing(client).keys() == {"redis"}


@pytest.mark.usefixtures("all_well")
def test_no_postgresql(staff, use_database, stopwatch):
    """Not even staff reads why: who is staff, only PostgreSQL knows, and nobody waits for it to say so."""
    use_database(REFUSED)
    found = failing(staff)
    assert found == {"postgresql": {"status": "failing", "seconds": found["postgresql"]["seconds"]}}
    assert stopwatch() < 1


@pytest.mark.usefixtures("all_well")
def test_a_silent_postgresql(staff, use_database, silent, stopwatch):
    use_database(silent)
    assert failing(staff).keys() == {"postgresql"}
    assert stopwatch() < health.PATIENCE_SECONDS + 0.5


@pytest.mark.usefixtures("all_well")
def test_a_postgresql_that_goes_away_before_the_staff_is_known(staff, use_database, monkeypatch):
    report = health.ask((health._postgresql, health._redis, health._rabbitmq), TIERS, 5)
    monkeypatch.setattr(health, "report", lambda: report)
    get_user_model()  # the session is in the cache, the user is not
    use_database(REFUSED)
    assert failing(staff) == {}


def test_why_is_for_staff_only(client, staff, admin_client, use_broker):
    use_broker(f"amqp://{REFUSED}")
    nobody = Client(headers={"Cookie": "sessionid=nonsense"})
    somebody = Client()
    somebody.force_login(get_user_model().objects.create_user("visitor"))
    for reader in (client, nobody, somebody):
        assert all(tier.keys() == {"status", "seconds"} for tier in failing(reader).values())
    for reader in (staff, admin_client):
        assert all(tier["error"] for tier in failing(reader).values())


@pytest.mark.usefixtures("all_well")
def test_a_tier_that_never_answers_is_not_waited_for(staff, monkeypatch, stopwatch):
    monkeypatch.setattr(health, "PATIENCE_SECONDS", 0.3)
    monkeypatch.setattr(health, "_redis", lambda tiers: time.sleep(1))
    assert errors(staff) == {"redis": "no answer in time"}
    assert stopwatch() < 0.8


def test_who_asks_at_the_same_time_gets_the_same_answer(client, monkeypatch):
    asked = []

    def question(tiers):
        asked.append(1)
        time.sleep(0.2)
        tiers["postgresql"] = {"status": "ok", "seconds": 0.2}

    monkeypatch.setattr(health, "FRESH_SECONDS", 1)
    monkeypatch.setattr(health, "_postgresql", question)
    monkeypatch.setattr(health, "ready", health.Shared(health.ready._ask))
    threads = [threading.Thread(target=Client().get, args=("/healthz/ready",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    time.sleep(1)
    client.get("/healthz/ready")
    assert len(asked) == 2


def test_a_url_in_an_error_loses_its_password():
    tiers = {}
    with health._question(tiers, "x"):
        raise ValueError("cannot open amqp://django:se%2Fcret@host:1/rabbit")
    assert tiers["x"]["error"] == "ValueError: cannot open amqp://***@host:1/rabbit"


def test_a_host_is_ready_as_long_as_there_is_postgresql(client, use_broker, use_redis, use_database, stopwatch):
    use_broker(f"amqp://{REFUSED}")
    use_redis(REFUSED)
    assert failing(client, "/healthz/ready", ["postgresql"]) == {}
    use_database(REFUSED)
    assert failing(client, "/healthz/ready", ["postgresql"])["postgresql"].keys() == {"status", "seconds"}
    assert stopwatch() < 1


def test_a_silent_postgresql_is_not_ready(client, use_database, silent, stopwatch):
    use_database(silent)
    assert failing(client, "/healthz/ready", ["postgresql"]).keys() == {"postgresql"}
    assert stopwatch() < health.READY_SECONDS + 0.5


def test_live_asks_nobody(client, use_broker, use_redis, use_database):
    use_broker(f"amqp://{REFUSED}")
    use_redis(REFUSED)
    use_database(REFUSED)
    response = client.get("/healthz/live")
    assert (response.status_code, response.content) == (200, b"ok")
    assert response["Content-Type"] == "text/plain"


@pytest.mark.parametrize("path", ["/healthz", "/healthz/live", "/healthz/ready"])
def test_there_is_nothing_to_post(client, path):
    assert client.post(path).status_code == 405


@pytest.mark.usefixtures("all_well")
def test_the_command_is_content():
    out = StringIO()
    call_command("health", stdout=out)
    assert json.loads(out.getvalue())["status"] == "ok"


def test_the_command_tells_operators_why_and_fails(use_database, use_broker):
    use_database(REFUSED)
    use_broker(f"amqp://{REFUSED}")
    out = StringIO()
    with pytest.raises(CommandError, match=r"^failing: postgresql, rabbitmq, worker$"):
        call_command("health", stdout=out)
    assert "refused" in json.loads(out.getvalue())["tiers"]["postgresql"]["error"]
