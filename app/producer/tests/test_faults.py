"""A tier is down or silent: what the visitor sees, and after how long."""

import time

import pytest

from jobs import broker
from jobs.models import Job
from producer.celery import app

from .conftest import REFUSED

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stopwatch():
    started = time.monotonic()
    return lambda: time.monotonic() - started


def post(client):
    return client.post("/", {"first": "a", "second": "b"})


def test_a_broker_that_refuses_fails_the_job_at_once(client, use_broker, stopwatch):
    use_broker(f"amqp://{REFUSED}")
    response = post(client)
    assert stopwatch() < 1
    assert response.status_code == 503
    job = Job.objects.get()
    assert job.state == Job.State.FAILED
    assert job.reason.startswith("RabbitMQ did not take the task (OperationalError: ")
    assert job.finished_at
    assert "RabbitMQ did not take the task" in response.content.decode()
    assert client.get(job.get_absolute_url()).status_code == 200


def test_a_broker_that_is_silent_fails_the_job_in_time(client, use_broker, silent, monkeypatch, stopwatch):
    assert app.conf.broker_connection_timeout == 4
    monkeypatch.setitem(app.conf, "broker_connection_timeout", 1)
    use_broker(f"amqp://{silent}")
    assert post(client).status_code == 503
    assert 1 <= stopwatch() < 2  # and not tried a second time
    assert Job.objects.get().state == Job.State.FAILED


@pytest.mark.usefixtures("worker")
def test_after_an_error_the_connection_is_never_used_again(client, monkeypatch):
    used = []
    send = app.send_task

    def fail_first(*args, producer, **options):
        used.append(producer.connection.connection)  # what is connected, not its reusable wrapper
        if len(used) == 1:
            raise ConnectionResetError("gone")
        return send(*args, producer=producer, **options)

    monkeypatch.setattr(app, "send_task", fail_first)
    assert post(client).status_code == 302
    assert Job.objects.get().state == Job.State.DONE
    assert len(used) == 2
    assert used[0] is not used[1]


def test_a_slow_error_is_not_tried_again(monkeypatch):
    attempts = []

    def fail_slowly(*args, **options):
        attempts.append(1)
        time.sleep(0.02)
        raise TimeoutError("too late")

    monkeypatch.setattr(app, "send_task", fail_slowly)
    monkeypatch.setattr(broker, "FAST_SECONDS", 0.01)
    with pytest.raises(broker.PublishError, match=r"TimeoutError: too late"):
        broker.publish("adding_task", ["a", "b"])
    assert len(attempts) == 1


@pytest.mark.usefixtures("worker")
def test_a_redis_that_refuses_leaves_the_page_working(client, use_redis, stopwatch):
    use_redis(REFUSED)
    assert client.get("/").status_code == 200
    response = post(client)
    assert response.status_code == 302  # the task is sent, and nobody knows its result
    page = client.get(response.url)
    assert stopwatch() < 1
    assert page.status_code == 200
    assert "Waiting for a worker" in page.content.decode()
    assert len(client.get("/").context["mine"]) == 1  # the session is in the database


@pytest.mark.usefixtures("worker")
def test_a_redis_that_is_silent_leaves_the_page_working(client, use_redis, silent, monkeypatch, stopwatch):
    monkeypatch.setitem(app.conf, "redis_socket_timeout", 0.1)
    use_redis(silent, SOCKET_TIMEOUT=0.1)
    assert client.get("/").status_code == 200
    response = post(client)
    assert response.status_code == 302
    assert client.get(response.url).status_code == 200
    assert stopwatch() < 2


def test_redis_is_never_waited_for_longer_than_a_second(settings):
    assert settings.REDIS_CACHE["OPTIONS"]["SOCKET_TIMEOUT"] == 1
    assert settings.REDIS_CACHE["OPTIONS"]["SOCKET_CONNECT_TIMEOUT"] == 1
    assert app.conf.redis_socket_timeout == 1
    assert app.conf.redis_socket_connect_timeout == 1
