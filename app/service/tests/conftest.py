"""Real workers, the queues around them, and a network that can fail."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.db import connection
from kombu import Connection, Exchange, Queue

from joining.models import Execution, Joined
from service.celery import app

from . import settings

PROJECT = Path(__file__).resolve().parent.parent
REPORTS, PARKED = "reports", "parked"


def pytest_configure():
    """Say what is missing, once, instead of in each test."""
    for port in (settings.POSTGRESQL_PORT, settings.REDIS_PORT, settings.RABBITMQ_PORT):
        try:
            socket.create_connection((settings.HOST, port), 2).close()
        except OSError as exc:
            pytest.exit(f"Nothing answers on port {port} ({exc}). Run 'tests/services.sh start'.", returncode=4)


def until(true, seconds=10):
    """What `true()` gives, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while True:
        if value := true():
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s: {true}"
        time.sleep(0.02)


def rows(query):
    """The rows of a query."""
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()


@pytest.fixture(scope="session", autouse=True)
def database(django_db_setup, django_db_blocker):
    """Everything is committed, as workers must see it. Each test has task ids of its own."""
    with django_db_blocker.unblock():
        yield
        others = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        until(lambda: not rows(others))


class Messages:
    """What arrives in the queue of reports, and among the dead letters."""

    def __init__(self):
        self.connection = Connection(settings.CELERY_BROKER_URL)
        self.reports, self.parked = [], []
        channel = self.connection.channel()
        self.reports_queue = Queue(REPORTS, Exchange(""), REPORTS, queue_arguments={"x-queue-type": "quorum"})(channel)
        self.reports_queue.declare()
        self.service_queue = app.amqp.queues["service"](channel)
        self.service_queue.declare()
        for queue in (self.service_queue, self.reports_queue, Queue(PARKED, no_declare=True)(channel)):
            queue.purge()
        self.consumers = [
            self.connection.Consumer(self.reports_queue, accept=["json"], callbacks=[self._report], no_ack=True),
            self.connection.Consumer(
                Queue(PARKED, no_declare=True), on_message=self.parked.append, auto_declare=False, no_ack=True
            ),
        ]
        for consumer in self.consumers:
            consumer.consume()

    def _report(self, body, message):
        self.reports.append(body[1] | {"task": message.headers["task"]})

    def _read(self):
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.05)

    def of(self, task_id, count=1, seconds=15):
        """So many reports of a task, the first first."""

        def enough():
            self._read()
            found = [report for report in self.reports if report["id"] == task_id]
            return found if len(found) >= count else []

        return until(enough, seconds)

    def parked_of(self, task_id, seconds=15):
        """A dead letter: (why, how often it was dead-lettered)."""

        def found():
            self._read()
            ids = [message.headers.get("id") or message.properties.get("correlation_id") for message in self.parked]
            return [message for known, message in zip(ids, self.parked, strict=True) if known == task_id]

        [message] = until(found, seconds)
        return message.headers["x-first-death-reason"], message.headers["x-death"][0]["count"]

    def quiet(self, seconds=0.3):
        """Read for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read()


@pytest.fixture(scope="session")
def messages():
    """The reports and the dead letters of all tests."""
    messages = Messages()
    yield messages
    for consumer in messages.consumers:
        consumer.cancel()
    messages.reports_queue.delete()
    messages.connection.close()


@pytest.fixture
def nothing_waits(messages):
    """No task is left from a test that failed."""
    messages.service_queue.purge()


@pytest.fixture(scope="session")
def send(messages):
    """Send a task as the producer does, and return its id: `send(name, [args], ...)`."""

    def send(name, args, *, task_id=None, attempt=1, report=REPORTS, **options):
        headers = {"attempt": attempt} | ({"report": {"task": "ended", "queue": report}} if report else {})
        return app.send_task(name, args, task_id=task_id or str(uuid.uuid4()), headers=headers, **options).id

    return send


def execution(task_id):
    """The execution of a task, or None."""
    return Execution.objects.filter(pk=task_id).first()


def effects(task_id):
    """How often a task took effect."""
    return Joined.objects.filter(task_id=task_id).count()


def database_url():
    """The URL of the tests' database."""
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=connection.settings_dict["NAME"]))


class Worker:
    """A real one, as systemd starts it."""

    def __init__(self, log, *options, **environment):
        self.log = log
        command = [sys.executable, "-m", "celery", "--quiet", "--app", "service", "worker", "--include", "tests.tasks"]
        command += ["--hostname", "service:first@worker1", "--queues", "service", "--concurrency", "4"]
        command += ["-O", "fair", "--without-gossip", "--without-mingle", *options]
        defaults = {
            "DJANGO_SETTINGS_MODULE": "service.settings",
            "DATABASE_URL": database_url(),
            "REPORT_SECONDS": "0.3",
            "PYTHONWARNINGS": "ignore:You're running the worker with superuser",
        }
        self.process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | defaults | environment,
            stderr=log.open("wb"),
            stdout=subprocess.DEVNULL,
        )

    def logs(self):
        """What it has logged, as dicts."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait_until_ready(self):
        """Until it consumes."""
        until(
            lambda: (
                self.process.poll() is not None or [1 for line in self.logs() if line["message"].endswith(" ready.")]
            )
        )
        assert self.process.poll() is None, self.log.read_text()

    def kill(self):
        """As a power cut does: its children go with it."""
        with suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def run_worker(tmp_path_factory):
    """Run a worker: `with run_worker(NAME="value"):`."""

    @contextmanager
    def run(*options, ready=True, **environment):
        worker = Worker(tmp_path_factory.mktemp("worker") / "log", *options, **environment)
        try:
            if ready:
                worker.wait_until_ready()
            yield worker
        finally:
            worker.kill()

    return run


class Proxy:
    """A TCP proxy in front of a service, which can fail."""

    def __init__(self, port):
        self.target = (settings.HOST, port)
        self.listener = None
        self.pairs = {}
        self.deaf = set()
        self.port = 0
        self.recover()
        self.running = True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def recover(self):
        """Take connections again, on the same port, and pass on what was held back."""
        self.silent = False
        if not self.listener:
            self.listener = socket.create_server((settings.HOST, self.port))
            self.listener.setblocking(False)
            self.port = self.listener.getsockname()[1]

    def fail(self, how):
        """`refuse`: cut all connections and take no new ones. `silent`: leave them open and pass nothing on."""
        if how == "silent":
            self.silent = True
            return
        listener, self.listener = self.listener, None
        listener.close()
        for one in list(self.pairs):
            self._drop(one)

    def deafen_latest(self):
        """Be silent on the connection that was opened last, for ever."""
        near = list(self.pairs)[-2]
        self.deaf |= {near, self.pairs[near]}

    def _drop(self, one):
        other = self.pairs.pop(one, None)
        self.pairs.pop(other, None)
        for end in (one, other):
            if end:
                end.close()

    def _run(self):
        while self.running:
            with selectors.DefaultSelector() as selector:
                listener = self.listener
                try:
                    for end in [listener, *self.pairs]:
                        if end and (end is listener or not (self.silent or end in self.deaf)):
                            selector.register(end, selectors.EVENT_READ)
                    ready = selector.select(0.02)
                except (OSError, ValueError):  # closed meanwhile
                    continue
            for key, _ in ready:
                self._serve(key.fileobj, listener)

    def _serve(self, end, listener):
        try:
            if end is listener:
                near, far = listener.accept()[0], socket.create_connection(self.target)
                self.pairs |= {near: far, far: near}
            elif data := end.recv(65536):
                self.pairs[end].sendall(data)
            else:
                self._drop(end)
        except (OSError, KeyError):
            self._drop(end)

    def close(self):
        """Be gone."""
        self.running = False
        self.thread.join()
        if self.listener:
            self.fail("refuse")


def through(proxy, url):
    """A URL, with the proxy in place of the service."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{settings.HOST}:{proxy.port}"))


@pytest.fixture
def broker():
    """A way to RabbitMQ that can fail."""
    proxy = Proxy(settings.RABBITMQ_PORT)
    proxy.url = through(proxy, settings.CELERY_BROKER_URL)
    yield proxy
    proxy.close()


@pytest.fixture
def postgresql():
    """A way to PostgreSQL that can fail."""
    proxy = Proxy(settings.POSTGRESQL_PORT)
    proxy.url = through(proxy, database_url())
    yield proxy
    proxy.close()


@pytest.fixture
def redis():
    """A way to Redis that can fail."""
    proxy = Proxy(settings.REDIS_PORT)
    proxy.url = through(proxy, settings.CELERY_RESULT_BACKEND)
    yield proxy
    proxy.close()
