"""One bounded question to each tier."""

import re
import threading
import time
from contextlib import closing, contextmanager

from django.db import connection
from django_redis import get_redis_connection

from producer.celery import app

TIERS = ("postgresql", "redis", "rabbitmq", "worker")
QUEUES = ("service", "results")  # each has workers of its own
CONNECT_SECONDS = 2
PING_SECONDS = 1
PATIENCE_SECONDS = 6  # more than any of the questions below takes
READY_SECONDS = 4
FRESH_SECONDS = 1  # so long an answer does for whoever else asks


class Unhealthy(Exception):
    """A tier that could be asked, but whose answer is not good."""


class Shared:
    """A question that is asked once, however many want to know at the same time: anybody may ask us, and often."""

    def __init__(self, ask):
        """`ask()` takes a bounded time."""
        self._ask, self._lock = ask, threading.Lock()
        self._answer, self._since = None, float("-inf")

    def __call__(self):
        """The answer, fresh enough."""
        with self._lock:
            if time.monotonic() - self._since >= FRESH_SECONDS:
                self._answer, self._since = self._ask(), time.monotonic()
            return self._answer


def ask(questions, names, seconds):
    """Ask all at once: `{name: tier}`. A tier that does not answer in time is reported as such, and not waited for."""
    tiers = {}
    threads = [threading.Thread(target=one, args=(tiers,), name="health", daemon=True) for one in questions]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    silent = {"status": "failing", "seconds": seconds, "error": "no answer in time"}
    tiers = {name: tiers.get(name, silent) for name in names}
    healthy = all(tier["status"] == "ok" for tier in tiers.values())
    return {"status": "ok" if healthy else "failing", "tiers": tiers}


@Shared
def report():
    """Each tier: `status` ok or failing, the `seconds` it took, and the `error` if it fails."""
    return ask((_postgresql, _redis, _rabbitmq), TIERS, PATIENCE_SECONDS)


@Shared
def ready():
    """The same for what a web host cannot do without: where PostgreSQL is, jobs are accepted."""
    return ask((_postgresql,), ("postgresql",), READY_SECONDS)


def public(report):
    """The report as anybody may read it: errors tell of hosts, ports and users."""
    tiers = {
        name: {key: value for key, value in tier.items() if key != "error"} for name, tier in report["tiers"].items()
    }
    return report | {"tiers": tiers}


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
            # RabbitMQ takes a worker that hangs for a consumer, and a worker that consumes nothing answers.
            for queue in QUEUES:
                if not broker.default_channel.queue_declare(queue, passive=True).consumer_count:
                    raise Unhealthy(f"nobody takes anything from the queue {queue}")
            ping = {"pattern": "service[:@]*", "matcher": "glob", "limit": 1, "timeout": PING_SECONDS}
            if not app.control.ping(connection=broker, **ping):
                raise Unhealthy(f"no worker answered within {PING_SECONDS} s")
