"""A result is shown as soon as Redis has it; a Redis that is away costs time, and only so much."""

import threading
import time

import pytest
from celery.states import FAILURE, SUCCESS
from django.db import connection

from jobs import results, services
from jobs.models import Job
from producer.celery import app

from .conftest import REFUSED

pytestmark = pytest.mark.django_db(transaction=True)

State = Job.State


@pytest.fixture
def job():
    return services.accept("a", "b")[0]


def in_redis(job, result="a es b", state=SUCCESS):
    app.backend.store_result(str(job.pk), result, state)


def later(seconds, act, *args, **kwargs):
    def run():
        time.sleep(seconds)
        act(*args, **kwargs)
        connection.close()

    threading.Thread(target=run).start()


def test_what_redis_has_is_shown_and_not_stored(job):
    in_redis(job)
    assert results.live(job) is job
    assert (job.state, job.result) == (State.DONE, "a es b")
    assert job.finished_at
    assert Job.objects.get().waiting


def test_the_host_is_shown(service, relay):
    job, _ = services.accept("redis", "b")  # whose end is not reported: only Redis knows
    results.live(job, 10)
    assert (job.state, job.result, job.worker) == (State.DONE, "redis es b", "worker1")
    assert Job.objects.get().waiting


def test_nothing_is_known_yet(job, stopwatch):
    results.live(job)
    assert job.waiting
    assert stopwatch() < 0.2
    results.live(job, 0.5)
    assert job.waiting
    assert 0.5 <= stopwatch() < 0.8


def test_a_result_that_comes_while_we_wait(job, stopwatch):
    later(0.3, in_redis, job)
    results.live(job, 5)
    assert job.state == State.DONE
    assert 0.3 <= stopwatch() < 0.6


def test_a_failure_is_not_redis_to_tell(job):
    """It may be an earlier attempt's."""
    in_redis(job, ValueError("no"), FAILURE)
    results.live(job)
    assert job.waiting


def test_a_failure_is_seen_in_the_row(job, stopwatch):
    later(0.2, services.end, job.pk, 1, State.FAILED, reason="no")
    results.live(job, 5)
    assert (job.state, job.reason) == (State.FAILED, "no")
    assert stopwatch() < 1


def test_what_has_ended_is_not_looked_up(job, use_redis, silent, stopwatch):
    services.end(job.pk, 1, State.DONE, result="a es b")
    job.refresh_from_db()
    use_redis(silent)
    results.live(job, 5)
    assert (job.state, job.result) == (State.DONE, "a es b")
    assert stopwatch() < 0.2


@pytest.mark.parametrize("how", ["refuses", "is silent"])
def test_a_redis_that_is_away(job, use_redis, silent, monkeypatch, how):
    monkeypatch.setitem(app.conf, "redis_socket_timeout", 0.3)
    monkeypatch.setitem(app.conf, "redis_socket_connect_timeout", 0.3)
    use_redis(REFUSED if how == "refuses" else silent)
    started = time.monotonic()
    results.live(job)
    assert time.monotonic() - started < 1
    assert job.waiting
    # From now on it is not asked, for a while.
    started = time.monotonic()
    results.live(job)
    assert time.monotonic() - started < 0.25
    later(0.2, services.end, job.pk, 1, State.DONE, result="a es b")
    results.live(job, 5)
    assert (job.state, job.result) == (State.DONE, "a es b")
    assert time.monotonic() - started < 1


def test_a_redis_that_returns_is_asked_again(job, proxy, use_redis, monkeypatch):
    monkeypatch.setattr(results, "REDIS_REST_SECONDS", 0.2)
    way = proxy("CELERY_RESULT_BACKEND")
    use_redis(way.address)
    in_redis(job)
    way.refuse()
    results.live(job)
    assert job.waiting
    way.accept()
    results.live(job, 3)
    assert job.state == State.DONE


def test_redis_is_never_waited_for_longer_than_a_second(settings):
    assert settings.REDIS_CACHE["OPTIONS"]["SOCKET_TIMEOUT"] == 1
    assert settings.REDIS_CACHE["OPTIONS"]["SOCKET_CONNECT_TIMEOUT"] == 1
    assert app.conf.redis_socket_timeout == 1
    assert app.conf.redis_socket_connect_timeout == 1


def test_a_redis_that_is_away_stops_no_job(use_redis, run_worker):
    """Neither when it is sent nor when it comes home."""
    use_redis(REFUSED)
    job, _ = services.accept("a", "b")
    with run_worker():
        results.live(job, 10)
    assert (job.state, job.result) == (State.DONE, "a es b")
    assert not Job.objects.get().waiting
