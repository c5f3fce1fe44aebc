"""A worker in a thread, brokers and Redis servers that are broken in various ways, and a clean state for each test."""

import socketserver
import threading
from contextlib import contextmanager

import pytest
from celery import Celery
from celery.app import trace
from celery.contrib.testing.worker import start_worker
from django.core.cache import cache
from kombu.transport.memory import Transport

from producer.celery import app

REFUSED = "127.0.0.1:1"  # nobody listens on port 1


@pytest.fixture(scope="session", autouse=True)
def impatient_workers():
    """A worker waits two seconds for its queue, twice, before it looks whether it should stop. Here, a moment."""
    drain = Transport.drain_events

    def drain_events(self, connection, timeout=None):
        drain(self, connection, timeout=0.02 if timeout == 2 else timeout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transport, "drain_events", drain_events)
        yield


@pytest.fixture(autouse=True)
def clean(settings, tmp_path):
    """No jobs left in the queue, nothing in the cache, a results file that does not exist yet."""
    settings.RESULTS_FILE = tmp_path / "results.txt"
    cache.clear()
    app.control.purge()


@pytest.fixture
def run_worker():
    """Run a worker, as `with run_worker():`. Its app is another than the producer's, as in real life."""
    other = Celery("service", set_as_current=False)
    for name in ("task_default_queue", "task_default_exchange_type", "broker_transport_options", "result_extended"):
        other.conf[name] = app.conf[name]

    @other.task(name="adding_task", shared=False)
    def adding_task(first, second):
        if first == "fail":
            raise ValueError("asked to fail")
        return f"{first} es {second}"

    @contextmanager
    def run():
        trace.setup_worker_optimizations(other, "service@worker1")  # puts the name into the results
        with start_worker(other, hostname="service@worker1", perform_ping_check=False, loglevel="ERROR"):
            yield
        trace.reset_worker_optimizations(other)
        app.set_default()
        app.set_current()

    return run


@pytest.fixture
def worker(run_worker):
    """A worker for the whole test."""
    with run_worker():
        yield


@pytest.fixture
def use_broker(monkeypatch):
    """Send tasks to another broker: `use_broker("amqp://...")`."""

    def use(url):
        monkeypatch.setenv("CELERY_BROKER_URL", url)  # Celery itself looks there first
        monkeypatch.setattr(app, "_pool", None)
        monkeypatch.setattr(app.amqp, "_producer_pool", None)

    return use


@pytest.fixture
def use_redis(monkeypatch, settings):
    """Use a Redis for the cache and for results: `use_redis("127.0.0.1:6379")`."""
    assert app.backend  # there is one to go back to

    def use(address, password="", **options):
        login = f":{password}@" if password else ""
        monkeypatch.setenv("CELERY_RESULT_BACKEND", f"redis://{login}{address}/0")
        monkeypatch.setattr(app, "_backend", app._get_backend())
        location = {"LOCATION": f"redis://{login}{address}/1"}
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


@pytest.fixture
def tiny_redis():
    """The address of a server that speaks just enough of Redis' protocol to say hello, and the commands it was sent."""
    commands = []

    def handle(connection):
        while head := connection.rfile.readline():
            words = []
            for _ in range(int(head[1:])):
                length = int(connection.rfile.readline()[1:])
                words.append(connection.rfile.read(length + 2)[:-2].decode())
            commands.append(words)
            answers = {"HELLO": b"%1\r\n+proto\r\n:3\r\n", "PING": b"+PONG\r\n"}
            connection.wfile.write(answers.get(words[0].upper(), b"+OK\r\n"))

    with serve(handle) as address:
        yield address, commands
