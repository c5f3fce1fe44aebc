"""One bounded question to each tier, all at once."""

import logging
import re
import socket
import threading
import time
from contextlib import closing

from amqp.exceptions import AccessRefused, NotFound
from django.db import connection
from django.utils import timezone
from django_redis import get_redis_connection
from redis.exceptions import AuthenticationError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobs.models import Job, Outbox, ParkedTask
from producer.celery import app

logger = logging.getLogger(__name__)

QUEUES = ("service", "results", "parked")
ROUNDTRIPS = 100
COUNTED = 10_000  # who counts further only makes PostgreSQL work
CONNECT_SECONDS = 1.5
PING_SECONDS = 1
RELAY_SECONDS = 15  # a relay looks into the outbox much more often

NO_ANSWER = "does not answer in time"


def ask_postgresql():
    """The server, the relays that are connected to it, and what the tables say."""
    with closing(connection), connection.cursor() as cursor:  # this thread's connection: a new one
        started = time.perf_counter()
        cursor.execute("SELECT 1")
        seconds = time.perf_counter() - started
        cursor.execute(
            "SELECT host(inet_server_addr()), inet_server_port(), current_setting('server_version'), "
            "pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database())"
        )
        address, port, version, replica, connections = cursor.fetchone()
        cursor.execute(
            "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'relay@%%' "
            "AND datname = current_database() AND state_change > now() - make_interval(secs => %s)",
            [RELAY_SECONDS],
        )
        relays = sorted(name.partition("@")[2] for (name,) in cursor.fetchall())
        oldest = Outbox.objects.order_by("id").values_list("created_at", flat=True).first()
        waiting, failed, parked = (
            Job.objects.filter(state=state)[:COUNTED].count()
            for state in (Job.State.WAITING, Job.State.FAILED, Job.State.PARKED)
        )
        return {
            "name": f"{address}:{port}" if address else "local socket",
            "version": version.split()[0],
            "role": "replica" if replica else "primary",
            "connections": connections,
            "seconds": seconds,
            "relays": relays,
            "outbox": {
                "length": Outbox.objects.all()[:COUNTED].count(),
                "oldest_seconds": max((timezone.now() - oldest).total_seconds(), 0) if oldest else None,
            },
            "jobs": {"waiting": waiting, "failed": failed, "parked": parked},
            "parked_tasks": ParkedTask.objects.filter(retried_at=None)[:COUNTED].count(),
            "roundtrips": roundtrips(),
        }


def roundtrips():
    """The seconds that the latest jobs took, the oldest first, without what they asked for themselves."""
    done = Job.objects.filter(state=Job.State.DONE).order_by("-finished_at", "-id")[:ROUNDTRIPS]
    # Two machines' clocks are compared: never less than a millisecond. A job that was retried lay about before.
    return [
        max(job.seconds - job.delay_seconds - job.work_seconds, 0.001) for job in reversed(done) if job.attempt == 1
    ]


def ask_redis():
    """The servers behind the cache and behind the results, which may be one."""
    servers = {}
    for use, client in (("cache", get_redis_connection("default")), ("results", app.backend.client)):
        started = time.perf_counter()
        client.ping()
        seconds = time.perf_counter() - started
        said = client.info("server", "memory", "replication")
        place = client.connection_pool.connection_kwargs.get("host", "Redis")
        server = {
            "name": f"{place}:{said['tcp_port']}",
            "uses": [],
            "role": said["role"],
            "version": said["redis_version"],
            "memory": said["used_memory"],
            "most_memory": said["maxmemory"],
            "seconds": seconds,
        }
        servers.setdefault(said["run_id"], server)["uses"].append(use)
    return list(servers.values())


def ask_rabbitmq():
    """The node that we are connected to, and what is in the queues."""
    queues = []
    with _broker() as broker:
        said = broker.connection.server_properties
        started = time.perf_counter()
        for name in QUEUES:
            try:
                found = broker.channel().queue_declare(name, passive=True)  # only asks
            except NotFound:
                queues.append({"name": name, "messages": None, "consumers": 0})
            else:
                queues.append({"name": name, "messages": found.message_count, "consumers": found.consumer_count})
        seconds = (time.perf_counter() - started) / len(QUEUES)
    name = said.get("cluster_name", "RabbitMQ")
    return {"name": name, "version": said.get("version", ""), "seconds": seconds, "queues": queues}


def ask_worker():
    """The workers that answer within a second, by name (`project@host`, without which of its starts it is)."""
    with _broker() as broker:
        replies = app.control.broadcast("stats", reply=True, timeout=PING_SECONDS, connection=broker) or []
    return {
        re.sub(":.*@", "@", name): {"processes": said["pool"]["max-concurrency"], "tasks": sum(said["total"].values())}
        for reply in replies
        for name, said in reply.items()
        if "pool" in said
    }


def _broker():
    bounds = {"read_timeout": CONNECT_SECONDS, "write_timeout": CONNECT_SECONDS}
    broker = app.connection_for_write(connect_timeout=CONNECT_SECONDS, transport_options=bounds)
    broker.ensure_connection(max_retries=0)
    return broker


QUESTIONS = {"postgresql": ask_postgresql, "redis": ask_redis, "rabbitmq": ask_rabbitmq, "worker": ask_worker}
_asking = {}


def ask(patience):
    """Ask all questions: `{tier: (answer, None) or (None, what is wrong, in words)}`, after `patience` seconds at most.

    A question that hangs is left alone, and not asked a second time meanwhile.
    """
    deadline = time.monotonic() + patience
    answers = {}

    def put(name, question):
        try:
            answers[name] = question(), None
        except Exception as exc:  # whatever it is, it is the answer
            logger.info("No answer about %s: %s", name, type(exc).__name__)
            answers[name] = None, in_words(exc)

    for name, question in QUESTIONS.items():
        if name not in _asking or not _asking[name].is_alive():
            _asking[name] = threading.Thread(target=put, args=(name, question), name=f"ask-{name}", daemon=True)
            _asking[name].start()
    for thread in _asking.values():
        thread.join(max(deadline - time.monotonic(), 0))
    return {name: answers.get(name, (None, NO_ANSWER)) for name in QUESTIONS}


def in_words(exc):
    """What an exception means to people, and nothing that is only for operators."""
    text = f"{type(exc).__name__} {exc}".lower()
    if isinstance(exc, (TimeoutError, RedisTimeoutError)) or "timeout" in text or "timed out" in text:
        return NO_ANSWER
    if isinstance(exc, (AccessRefused, AuthenticationError)) or "authentication" in text:
        return "refuses our login"
    if "refused" in text:
        return "refuses connections"
    if isinstance(exc, socket.gaierror) or "resolve" in text or "name or service not known" in text:
        return "cannot be found under its name"
    return "fails"
