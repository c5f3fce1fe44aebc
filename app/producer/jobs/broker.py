"""Sending tasks: within seconds RabbitMQ has confirmed that it holds the task, or there is an error."""

import logging
import time

from producer.celery import app

logger = logging.getLogger(__name__)

CONFIRM_SECONDS = 3
FAST_SECONDS = 1


class PublishError(Exception):
    """RabbitMQ did not take the task, or did not say so in time."""


def publish(task, args, *, task_id=None, queue=None):
    """Send a task by name and return its id.

    A connection from the pool may have died since it was last used. That shows at once, and a second attempt on a new
    connection is cheap. A broker that does not answer shows late: a second attempt would double the wait for nothing.
    """
    started = time.monotonic()
    try:
        with app.producer_or_acquire() as producer:
            try:
                return _send(producer, task, args, task_id, queue)
            except Exception as exc:
                if time.monotonic() - started > FAST_SECONDS:
                    raise
                logger.info("Sending %s again on a new connection: %s: %s", task, type(exc).__name__, exc)
                return _send(producer, task, args, task_id, queue)
    except Exception as exc:  # kombu, amqp and the socket each have their own, and the caller cares for none
        logger.error("Could not send %s: %s: %s", task, type(exc).__name__, exc)
        raise PublishError(f"RabbitMQ did not take the task ({type(exc).__name__}: {exc})") from exc


def _send(producer, task, args, task_id, queue):
    options = {"queue": queue} if queue else {}
    try:
        sent = app.send_task(task, args, task_id=task_id, producer=producer, confirm_timeout=CONFIRM_SECONDS, **options)
    except Exception:
        # Never use this connection again. A confirmation that arrives late would be taken for the next message's:
        # py-amqp waits for any confirmation, not for that of its own message.
        connection = producer.connection
        connection.collect()
        producer.revive(connection)
        raise
    return sent.id
