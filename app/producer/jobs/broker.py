"""Sending tasks: within seconds RabbitMQ has confirmed that it holds them, or there is an error."""

import contextlib
import logging
import math
import time
import uuid

from kombu.transport.native_delayed_delivery import declare_native_delayed_delivery_exchanges_and_queues

from producer.celery import app

from .models import Outbox
from .services import QUEUE, REPORT

logger = logging.getLogger(__name__)

CONFIRM_SECONDS = 3
BOUNDS = {"confirm_publish": False, "read_timeout": 4, "write_timeout": 4, "max_retries": 0}


class PublishError(Exception):
    """RabbitMQ did not take a task, or did not say so in time."""


class Sender:
    """A connection to RabbitMQ, made when it is needed, and never used again after an error.

    A broker that hangs would hold us up for ever, so that each step is bounded. After an error a confirmation may still
    be under way, and py-amqp would take it for the next message's. Hence no connection outlives an error, and hence we
    count ourselves (`confirm_publish` is off): each confirmation is matched with its message. That is also what lets
    many messages be under way at once.
    """

    def __init__(self):
        """Not connected yet."""
        self._connection = None

    def send(self, messages, confirmed):
        """Send messages (`Outbox`) in their order; call `confirmed(message)` for each that RabbitMQ has.

        PublishError: not for all of them; the others may have arrived, or not.
        """
        with self._dropped_after_an_error():
            self._connect()
            self._refused = []
            for message in messages:
                self._publish(message)
            self._wait(confirmed)
            if self._refused:
                raise PublishError(f"RabbitMQ refused {len(self._refused)} of {len(messages)} tasks")

    def refresh(self):
        """See to a living connection while there is nothing to send, so that the next message does not wait for it."""
        with self._dropped_after_an_error():
            self._connect()
            with contextlib.suppress(TimeoutError):  # silent, as it should be
                self._connection.drain_events(timeout=0.001)

    def drop(self):
        """Close the connection without a word to RabbitMQ, which may not listen."""
        if self._connection is not None:
            self._connection.collect()
            self._connection = None

    @contextlib.contextmanager
    def _dropped_after_an_error(self):
        try:
            yield
        except Exception as exc:  # kombu, amqp and the socket each have their own, and the caller cares for none
            self.drop()
            if isinstance(exc, PublishError):
                raise
            raise PublishError(f"RabbitMQ did not take the task ({type(exc).__name__}: {exc})") from exc

    def _connect(self):
        if self._connection is not None:
            return
        self._connection = app.connection_for_write(transport_options=BOUNDS)
        self._connection.ensure_connection(max_retries=0)
        channel = self._connection.default_channel
        # What is sent to a queue that does not exist is lost. Our own we make; another project's we only look for.
        for queue in app.amqp.queues.values():
            if queue.name == REPORT["queue"]:
                queue(channel).declare()
            else:
                queue(channel).queue_declare(passive=True)
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        self._producer = app.amqp.Producer(channel, auto_declare=False)
        self._delays = False
        self._sent = 0
        self._pending = {}  # messages under way, by the number that RabbitMQ knows them by
        self._done = []

    def _prepare_delays(self):
        """What a delayed message passes through: see Celery's native delayed delivery. A worker binds its own queue."""
        declare_native_delayed_delivery_exchanges_and_queues(
            self._connection, app.conf.broker_native_delayed_delivery_queue_type
        )
        self._delays = True

    def _publish(self, message):
        countdown = message.countdown
        if countdown and not self._delays:
            self._prepare_delays()
        app.send_task(
            message.task,
            message.args,
            message.kwargs,
            task_id=message.task_id,
            headers=message.headers,
            queue=message.queue,
            countdown=countdown and math.ceil(countdown),  # Celery cuts off, and the worker would hold what is early
            declare=[],
            mandatory=True,  # without its queue it would be confirmed, and gone
            retry=False,
            producer=self._producer,
        )
        self._sent += 1
        self._pending[self._sent] = message

    def _wait(self, confirmed):
        """Until nothing is under way; as long as confirmations come in, there is time."""
        deadline = time.monotonic() + CONFIRM_SECONDS
        while True:
            if self._done:
                for message in self._done:
                    confirmed(message)
                self._done.clear()
                deadline = time.monotonic() + CONFIRM_SECONDS
            if not self._pending:
                return
            self._connection.drain_events(timeout=max(deadline - time.monotonic(), 0.001))

    def _on_ack(self, number, multiple):
        self._done += self._settled(number, multiple)

    def _on_nack(self, number, multiple):
        self._refused += self._settled(number, multiple)

    def _settled(self, number, multiple):
        numbers = [one for one in self._pending if one <= number] if multiple else [number]
        return [self._pending.pop(one) for one in numbers]


def publish(task, args, *, task_id=None, queue=QUEUE):
    """Send one task by name, now, and return its id; for people who try something. Jobs go through the outbox."""
    message = Outbox(task=task, args=args, task_id=task_id or str(uuid.uuid4()), queue=queue)
    sender = Sender()
    sender.send([message], lambda message: None)
    sender.drop()
    return message.task_id
