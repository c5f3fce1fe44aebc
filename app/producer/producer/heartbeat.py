"""The worker's heartbeat to systemd (Type=notify, WatchdogSec=): one that hangs is restarted, one that waits is not.

The pings come from the timer of the loop that consumes, so a loop that hangs sends none. While RabbitMQ is away that
loop does not run; then each attempt to reach it is a sign of life. Without NOTIFY_SOCKET all of this does nothing.
"""

import contextlib
import logging
import os
import socket

from celery import bootsteps
from celery.worker import consumer
from celery.worker.components import Pool, Timer
from celery.worker.state import maybe_shutdown

logger = logging.getLogger(__name__)

PING_SECONDS = 5
RECONNECT_SECONDS = 5


def notify(state):
    """Tell systemd, as sd_notify(3) does. Nobody listening is no reason to fail."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
        channel.setblocking(False)
        channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


class Heartbeat(bootsteps.StartStopStep):
    """A step of the worker, before its consumer: ready is who could work, whether or not RabbitMQ is there."""

    requires = (Timer, Pool)

    def start(self, worker):
        """Say that the worker is ready, and from now on that it lives."""
        notify("READY=1")
        watchdog = int(os.environ.get("WATCHDOG_USEC") or 0) / 1_000_000
        worker.timer.call_repeatedly(min(PING_SECONDS, watchdog / 4 or PING_SECONDS), notify, ("WATCHDOG=1",))

    def stop(self, worker):
        """Say that what follows, the wait for tasks that run, is no hang."""
        notify("STOPPING=1")


class Consumer(consumer.Consumer):
    """Celery's consumer, whose wait for RabbitMQ is endless, visible, and over soon after RabbitMQ is back."""

    class Blueprint(consumer.Consumer.Blueprint):
        """Without the queues that delay tasks: the relay sees to them, and nothing is delayed here."""

        default_steps = [step for step in consumer.Consumer.Blueprint.default_steps if "delayed_delivery" not in step]  # noqa: RUF012

    def on_decode_error(self, message, exc):
        """Park a message that cannot be decoded. Celery acknowledges it, which then is gone."""
        logger.critical("A message that cannot be decoded (%s) is parked: %s", message.content_type, exc)
        message.reject_log_error(logger, self.connection_errors)

    def ensure_connected(self, conn):
        """Connect, however long it takes."""

        def alive():
            notify("WATCHDOG=1")
            maybe_shutdown()

        def failed(exc, interval):
            logger.error("RabbitMQ at %s: %s. Trying again in %s s", conn.as_uri(), exc, interval)

        alive()
        conn = conn.ensure_connection(
            failed, None, interval_start=1, interval_step=1, interval_max=RECONNECT_SECONDS, callback=alive
        )
        self.first_connection_attempt = False
        return conn
