"""One bounded question to each tier."""

import re
import threading
import time
from contextlib import closing, contextmanager

from django.db import connection
from django_redis import get_redis_connection

from producer.celery import app

TIERS = ("postgresql", "redis", "rabbitmq", "worker")
CONNECT_SECONDS = 2
PING_SECONDS = 1
PATIENCE_SECONDS = 6  # more than any of the questions below takes


class Unhealthy(Exception):
    """A tier that could be asked, but whose answer is not good."""


def report():
    """Ask all tiers at once. A tier that does not answer in time is reported as such, and not waited for."""
    tiers = {}
    threads = [threading.Thread(target=ask, args=(tiers,), daemon=True) for ask in (_postgresql, _redis, _rabbitmq)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    silent = {"status": "failing", "seconds": PATIENCE_SECONDS, "error": "no answer in time"}
    tiers = {name: tiers.get(name, silent) for name in TIERS}
    healthy = all(tier["status"] == "ok" for tier in tiers.values())
    return {"status": "ok" if healthy else "failing", "tiers": tiers}


@contextmanager
def _question(tiers, name):
    started = time.monotonic()
    tier = {"status": "ok"}
    try:
        yield
    except Exception as exc:
        # Whatever the error is, it is the answer. Should it quote a URL, then without the password.
        text = re.sub(r"://[^@\s]*@", "://***@", str(exc))
        tier = {"status": "failing", "error": f"{type(exc).__name__}: {text}"}
    tiers[name] = tier | {"seconds": round(time.monotonic() - started, 3)}


def _postgresql(tiers):
    # A thread has a connection of its own: this one is new, which is the more honest question.
    with _question(tiers, "postgresql"), closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def _redis(tiers):
    with _question(tiers, "redis"):
        get_redis_connection("default").ping()  # not through the cache, which hides that Redis is down
        app.backend.client.ping()


def _rabbitmq(tiers):
    bounds = {"read_timeout": CONNECT_SECONDS, "write_timeout": CONNECT_SECONDS}
    with app.connection_for_write(connect_timeout=CONNECT_SECONDS, transport_options=bounds) as broker:
        with _question(tiers, "rabbitmq"):
            broker.ensure_connection(max_retries=0)
        with _question(tiers, "worker"):
            if not broker.connected:
                raise Unhealthy("unknown, because RabbitMQ is failing")
            ask = {"pattern": "service@*", "matcher": "glob", "limit": 1, "timeout": PING_SECONDS}
            if not app.control.ping(connection=broker, **ask):
                raise Unhealthy(f"no worker answered within {PING_SECONDS} s")
