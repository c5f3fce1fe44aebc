"""The heartbeat, on a real socket as systemd has it."""

import signal
import socket
import time

import pytest

from .conftest import until

pytestmark = pytest.mark.usefixtures("nothing_waits")


class Systemd:
    """Hears what a worker says."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1000000"}  # a ping each 0.25 s
        self.heard = []

    def hear(self, seconds=0):
        """What was said, from now on for so long."""
        since, deadline = len(self.heard), time.monotonic() + seconds
        while True:
            try:
                self.heard.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return self.heard[since:]
                time.sleep(0.01)

    def pings(self, seconds):
        """How many pings come from now on in so many seconds."""
        self.hear()
        return self.hear(seconds).count("WATCHDOG=1")


@pytest.fixture
def systemd(tmp_path):
    systemd = Systemd(tmp_path / "notify")
    yield systemd
    systemd.socket.close()


def test_the_heartbeat_is_the_consumers(run_worker, systemd):
    """A consumer that hangs does not ping: that its processes live means nothing."""
    with run_worker(**systemd.environment) as worker:
        assert systemd.hear()[0] == "READY=1"
        assert 2 <= systemd.pings(1) <= 5

        worker.process.send_signal(signal.SIGSTOP)
        systemd.hear(0.2)
        assert systemd.pings(1) == 0
        worker.process.send_signal(signal.SIGCONT)
        assert systemd.pings(0.7)

        worker.process.send_signal(signal.SIGUSR2)  # hang for two seconds: see tests.tasks
        systemd.hear(0.2)
        assert systemd.pings(1.3) == 0
        systemd.hear(0.6)
        assert systemd.pings(0.7)

        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(timeout=10) == 0
        assert "STOPPING=1" in systemd.hear()
        assert systemd.heard.count("READY=1") == 1


def test_a_worker_that_waits_for_its_broker_pings(run_worker, systemd, broker, send, messages):
    broker.fail("refuse")
    with run_worker(ready=False, CELERY_BROKER_URL=broker.url, **systemd.environment) as worker:
        until(lambda: systemd.hear() or systemd.heard)
        assert systemd.heard[0] == "READY=1"  # without a broker
        assert systemd.pings(1.5) >= 1
        broker.recover()
        worker.wait_until_ready()
        messages.of(send("adding_task", ["a", "b"]))
        assert systemd.pings(1) >= 2

        broker.fail("refuse")
        assert systemd.pings(1.5) >= 1
        broker.recover()
        messages.of(send("adding_task", ["a", "b"]))
        assert systemd.pings(1) >= 2
        assert systemd.heard.count("READY=1") == 1
