"""The real services, workers and relays as processes, a network that can fail, and a clean state for each test."""

import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from django.core.cache import cache
from django.db import connection
from django_redis import get_redis_connection
from kombu import Connection
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)

from jobs import results
from jobs.relay import Relay
from jobs.status import questions, seen, watch
from producer.celery import app

from . import settings as places

PROJECT = Path(__file__).resolve().parent.parent
REFUSED = "127.0.0.1:1"  # nobody listens on port 1
QUEUES = ("service", "results", "parked")


def pytest_configure():
    """Say what is missing, once, instead of in each test."""
    for port in (places.POSTGRESQL_PORT, places.REDIS_PORT, places.RABBITMQ_PORT):
        try:
            socket.create_connection((places.HOST, port), 2).close()
        except OSError as exc:
            text = f"There is no service on port {port} ({exc}). Start them: tests/services.sh start"
            pytest.exit(text, returncode=4)


def until(true, seconds=10):
    """What `true()` gives, as soon as it is true."""
    deadline = time.monotonic() + seconds
    while True:
        if value := true():
            return value
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def stopwatch():
    """How many seconds the test has taken."""
    started = time.monotonic()
    return lambda: time.monotonic() - started


# RabbitMQ


def declare_queues():
    """All queues, as the workers of both projects do when they start."""
    with Connection(places.CELERY_BROKER_URL) as broker:
        for queue in app.amqp.queues.values():
            queue(broker.channel()).declare()
        declare_native_delayed_delivery_exchanges_and_queues(broker, "quorum")
        bind_queue_to_native_delayed_delivery_exchange(broker, app.amqp.queues["service"])


@pytest.fixture(scope="session")
def channel():
    """A channel of the tests' own to RabbitMQ, with all queues declared."""
    declare_queues()
    with Connection(places.CELERY_BROKER_URL) as broker:
        yield broker.channel()


@pytest.fixture(autouse=True)
def clean(settings, tmp_path, channel, monkeypatch):
    """Nothing in the queues, nothing in the cache, a results file that does not exist yet."""
    settings.RESULTS_FILE = tmp_path / "results.txt"
    monkeypatch.setattr(results, "_redis_rests_until", 0.0)
    cache.clear()
    for name in QUEUES:
        channel.queue_purge(name)


@pytest.fixture
def messages(channel):
    """Take messages out of a queue: `messages("service", 3)` are three, within some seconds; without a number, all."""

    def take(name, count=None, seconds=10):
        taken = []
        deadline = time.monotonic() + seconds
        while count is None or len(taken) < count:
            message = channel.basic_get(name, no_ack=True)
            if message:
                taken.append(channel.message_to_python(message))
            elif count is None:
                break
            else:
                assert time.monotonic() < deadline, f"{len(taken)} messages instead of {count}"
                time.sleep(0.005)
        return taken

    return take


@pytest.fixture
def length(channel):
    """How many messages wait in a queue: `length("service")`."""
    return lambda name: channel.queue_declare(name, passive=True).message_count


@pytest.fixture
def consumers(channel):
    """How many consume from a queue: `consumers("service")`."""
    return lambda name: channel.queue_declare(name, passive=True).consumer_count


@pytest.fixture
def use_broker():
    """Send tasks to another broker: `use_broker("amqp://...")`."""
    # A patch of its own: undone before a worker that the test asked for first is told to stop.
    with pytest.MonkeyPatch.context() as patch:

        def use(url):
            patch.setenv("CELERY_BROKER_URL", url)  # Celery itself looks there first
            patch.setattr(app, "_pool", None)
            patch.setattr(app.amqp, "_producer_pool", None)

        yield use


@pytest.fixture
def use_database():
    """Look for PostgreSQL at another address: `use_database("127.0.0.1:5432")`."""
    with pytest.MonkeyPatch.context() as patch:

        def use(address):
            connection.close()
            host, _, port = address.partition(":")
            patch.setitem(connection.settings_dict, "HOST", host)
            patch.setitem(connection.settings_dict, "PORT", port)

        yield use
    connection.close()


# Processes


class Process:
    """A program of this project, or the one that stands in for the service; its log as `log`."""

    def __init__(self, log, *command, **environment):
        self.log = log
        database = os.environ["DATABASE_URL"].rpartition("/")[0] + "/" + connection.settings_dict["NAME"]
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "producer.settings",
            "DATABASE_URL": database,
            "PYTHONWARNINGS": "ignore:You're running the worker with superuser",
            **environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=PROJECT, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT
        )

    def logs(self):
        """What it has logged, as dicts."""
        return [json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def has_logged(self, text):
        """Whether there is a line with this text; it is an error if the process has ended without it."""
        found = text in self.log.read_text()
        assert found or self.process.poll() is None, self.log.read_text()
        return found

    def stop(self):
        """As systemd does it; returns the exit status."""
        self.process.terminate()
        return self.process.wait(10)

    def kill(self):
        """As a power cut does it."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


def celery(log, project, queues, *options, **environment):
    """A Celery worker."""
    command = ["-m", "celery", "--quiet", "--app", project, "worker", "--queues", queues, "--loglevel", "INFO"]
    command += ["-O", "fair", "--without-gossip", "--without-mingle", *options]
    return Process(log, *command, **environment)


@pytest.fixture
def run(tmp_path):
    """Run a program: `run("manage.py", "relay", NAME="value")`. It is killed in the end, and its log shown."""
    processes = []

    def start(*command, via=Process, **environment):
        process = via(tmp_path / f"log{len(processes)}", *command, **{"STATE_DIRECTORY": str(tmp_path)} | environment)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        print(process.log.read_text()[-4000:])


@contextmanager
def _session_worker(channel, log, project, queue, hostname, *options, **environment):
    """A worker that is started once and consumes only when it is told to: starting one takes seconds."""

    def tell(what, consumers):
        # A worker answers before it does it, and does several such things in any order.
        assert what(queue, destination=[hostname], reply=True, timeout=5, limit=1)
        until(lambda: channel.queue_declare(queue, passive=True).consumer_count == consumers)

    process = celery(log, project, queue, "--hostname", hostname, *options, **environment)
    try:
        until(lambda: process.has_logged(" ready."), 90)
        tell(app.control.cancel_consumer, 0)

        @contextmanager
        def consuming():
            tell(app.control.add_consumer, 1)
            try:
                yield process
            finally:
                tell(app.control.cancel_consumer, 0)

        yield consuming
    finally:
        process.kill()


@pytest.fixture(scope="session")
def service_worker(tmp_path_factory, channel):
    """See `service`."""
    log = tmp_path_factory.mktemp("service") / "log"
    options = ("--pool", "threads", "--concurrency", "4")
    with _session_worker(channel, log, "tests.standin", "service", "service:first@worker1", *options) as worker:
        yield worker


@pytest.fixture(scope="session")
def results_worker(tmp_path_factory, channel, django_db_setup):
    """See `home`."""
    directory = tmp_path_factory.mktemp("results")
    with _session_worker(
        channel,
        directory / "log",
        "producer",
        "results",
        "results@worker1",
        "--concurrency",
        "2",
        STATE_DIRECTORY=str(directory),
    ) as worker:
        yield worker


@pytest.fixture
def relaying(transactional_db):
    """Run a relay in a thread: `with relaying():`."""

    @contextmanager
    def start():
        relay = Relay()
        thread = threading.Thread(target=relay.run)
        thread.start()
        try:
            yield relay
        finally:
            relay.stop()
            with connection.cursor() as cursor:
                cursor.execute("NOTIFY outbox")  # it need not wait to see that
            thread.join()

    return start


@pytest.fixture
def relay(relaying):
    """A relay for the whole test."""
    with relaying() as relay:
        yield relay


@pytest.fixture
def service(service_worker):
    """A worker of the service, or nearly so, for the whole test."""
    with service_worker() as process:
        yield process


@pytest.fixture
def home(results_worker, transactional_db):
    """The worker that brings results home, for the whole test. It files them where `home.results_file` is."""
    with results_worker() as process:
        process.results_file = process.log.parent / "results.txt"
        yield process


@pytest.fixture
def run_worker(relaying, service_worker, results_worker):
    """Run all that a job meets on its way, as `with run_worker():`."""

    @contextmanager
    def start():
        with ExitStack() as stack:
            for one in (relaying, service_worker, results_worker):
                stack.enter_context(one())
            yield

    return start


@pytest.fixture
def worker(run_worker):
    """All that a job meets on its way, for the whole test."""
    with run_worker():
        yield


# A network that can fail


class Proxy:
    """A TCP proxy in front of a service. It passes, refuses, or holds what it gets from one side, or from both."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._passing = {"up": threading.Event(), "down": threading.Event()}
        self._ends = set()
        self._port = 0
        self.speak()
        self.accept()
        self.address = f"{places.HOST}:{self._port}"
        self.url = urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{self.address}"))

    def accept(self):
        """Take connections, always on the same port."""
        self._listener = socket.create_server((places.HOST, self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def refuse(self):
        """Cut all connections and take no new ones: a service that is down."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self):
        """Cut all connections."""
        for end in list(self._ends):
            self._close(end)

    def hush(self, *ways):
        """Hold what comes: `up` from the clients, `down` from the service; without a word both, as if it was frozen."""
        for way in ways or self._passing:
            self._passing[way].clear()

    def speak(self):
        """Pass on what was held, and what comes."""
        for event in self._passing.values():
            event.set()

    def _accept(self, listener):
        with suppress(OSError):
            while True:
                near = listener.accept()[0]
                far = socket.create_connection(self._target)
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._ends |= {near, far}
                for way, source, target in (("up", near, far), ("down", far, near)):
                    threading.Thread(target=self._pump, args=(way, source, target), daemon=True).start()

    def _pump(self, way, source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                self._passing[way].wait()
                target.sendall(data)
        self._close(source)
        self._close(target)

    def _close(self, end):
        self._ends.discard(end)
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def close(self):
        """Be gone."""
        with suppress(OSError):
            self.refuse()
        self.speak()


@pytest.fixture
def proxy():
    """Put a proxy in front of a service: `proxy("CELERY_BROKER_URL")`; `.url` and `.address` are its own."""
    proxies = []

    def start(variable):
        proxies.append(Proxy(os.environ[variable]))
        return proxies[-1]

    yield start
    for one in proxies:
        one.close()


@pytest.fixture
def use_redis(monkeypatch, settings):
    """Use another Redis for the cache and for results: `use_redis("127.0.0.1:6379")`."""
    assert app.backend  # there is one to go back to

    def use(address, password="quintet", user="quintet", **options):
        monkeypatch.setenv("CELERY_RESULT_BACKEND", f"redis://{user}:{password}@{address}/0")
        monkeypatch.setattr(app, "_backend", app._get_backend())
        location = {"LOCATION": f"redis://{user}:{password}@{address}/1"}
        options = {"OPTIONS": settings.REDIS_CACHE["OPTIONS"] | options}
        settings.CACHES = {"default": settings.REDIS_CACHE | location | options}

    return use


@contextmanager
def serve(handle):
    """A TCP server in a thread; yields its address."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            handle(self)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()
        thread.join()


@pytest.fixture
def silent():
    """The address of a server that accepts connections and never says a word."""
    enough = threading.Event()
    with serve(lambda connection: enough.wait()) as address:
        yield address
        enough.set()


# The status page


@pytest.fixture
def new_watch(monkeypatch):
    """Make a `Watch` that does not go on after the test."""
    made = []

    def make():
        made.append(watch.Watch())
        return made[-1]

    yield make
    monkeypatch.setattr(watch, "WATCHED_SECONDS", -1)
    for one in made:
        with one._changed:
            one._changed.notify_all()
    until(lambda: not any(one._watching for one in made))


@pytest.fixture
def fresh_status(new_watch, monkeypatch):
    """Nobody has looked at the tiers yet, and nobody was seen."""
    monkeypatch.setattr("jobs.views.watch", new_watch())
    monkeypatch.setattr(seen, "_here", {})
    monkeypatch.setattr(questions, "_asking", {})
    get_redis_connection("default").delete(seen.KEY, watch.SHARED, watch.CHOSEN)


# systemd


@pytest.fixture
def systemd(tmp_path):
    """Systemd's end of the line: `systemd.address` for NOTIFY_SOCKET, `systemd.said()` all that it was told so far."""

    class Listener:
        address = str(tmp_path / "notify")

        def __init__(self):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(self.address)
            self._socket.setblocking(False)
            self._said = []

        def said(self):
            with suppress(BlockingIOError):
                while True:
                    self._said.append(self._socket.recv(4096).decode())
            return self._said

        def close(self):
            self._socket.close()

    listener = Listener()
    yield listener
    listener.close()
