"""Dead letters: what RabbitMQ gave up on is taken into PostgreSQL, to be looked at and tried again.

A step of the Celery worker, in its main process, since a task that breaks workers must not be a task again.
"""

import hashlib
import json
import logging
import math
import uuid

from celery import bootsteps
from celery.worker.consumer import Connection
from django.db import connection, transaction
from kombu import Consumer, Queue

from producer import logs

from . import services
from .database import UNAVAILABLE
from .models import Job, ParkedTask

logger = logging.getLogger(__name__)

# Not declared here: RabbitMQ's policies put dead letters into it, so that it is part of what they need.
QUEUE = Queue("parked", no_declare=True)
PREFETCH = 10
PAUSE_SECONDS = 2
MOST_BYTES = 1024 * 1024

NUL = "\N{REPLACEMENT CHARACTER}"  # stands for what PostgreSQL cannot store


class Parking(bootsteps.ConsumerStep):
    """Consume dead letters beside the tasks."""

    requires = (Connection,)

    def start(self, c):
        """Keep the timer at hand."""
        self._timer = c.timer
        super().start(c)

    def get_consumers(self, channel):
        """One consumer, of few messages at a time."""
        consumer = Consumer(channel, [QUEUE], on_message=self.on_message, auto_declare=False)
        consumer.on_decode_error = lambda message, exc: self.on_message(message)  # whatever is wrong with it
        consumer.qos(prefetch_count=PREFETCH)
        return [consumer]

    def on_message(self, message):
        """Acknowledge it when it is stored. Giving it back would count as a delivery, and there are not many of those;
        so while PostgreSQL is away, it stays with us.
        """
        try:
            park(message)
        except Exception as exc:  # nothing in a message may break the worker
            known = isinstance(exc, UNAVAILABLE)
            logger.error("A dead letter waits: %s", str(exc).strip(), exc_info=not known)
            self._timer.call_after(PAUSE_SECONDS, self.on_message, (message,))
        else:
            message.ack_log_error(logger, (OSError, *message.channel.connection.client.connection_errors))
        finally:
            connection.close()  # no child of this process may inherit it


def park(message):
    """Take a dead letter (kombu's message) into PostgreSQL: as the end of a job, or as a parked task. Twice is once."""
    headers = message.headers
    words = why(headers)
    task_id = str(headers.get("id") or message.properties.get("correlation_id") or "")
    with logs.about(task_id), transaction.atomic():
        if job := _job(task_id, headers):
            parked = services.end(job.pk, headers["attempt"], Job.State.PARKED, reason=words)
            logger.error("The job is parked: %s%s", words, "" if parked else " It has ended otherwise, though.")
            return
        args, kwargs = _arguments(message)
        values = {
            "task_id": _text(task_id)[:255],
            "task": _text(str(headers.get("task") or ""))[:255],
            "args": args,
            "kwargs": kwargs,
            "headers": _storable(_own(headers)),
            "queue": _text(died_in(headers))[:255],
            "reason": words,
            "body": _bytes(message)[:MOST_BYTES],
        }
        _, new = ParkedTask.objects.get_or_create(digest=_digest(message), defaults=values)
        logger.error("%s is parked%s: %s", values["task"] or "A message", "" if new else " already", words)


def _job(task_id, headers):
    """The job that this message was to do, if it was one."""
    if (headers.get("task"), headers.get("report")) != (services.TASK, services.REPORT):
        return None
    if type(headers.get("attempt")) is not int:
        return None
    try:
        return Job.objects.filter(pk=uuid.UUID(task_id)).first()
    except ValueError:
        return None


def why(headers):
    """Why RabbitMQ gave a message up, in words."""
    reason = headers.get("x-last-death-reason") or _last_death(headers).get("reason")
    match reason:
        case "delivery_limit":
            return "Each time it was delivered, its worker died, lost its connection, or gave it back."
        case "rejected":
            return "Its worker rejected it: it exceeded its time limit, or the worker could not make sense of it."
        case "expired":
            return "It expired before a worker took it."
        case "maxlen":
            return "Its queue was full."
        case _:
            return f"RabbitMQ gave it up ({_text(str(reason or 'for no reason'))})."


def died_in(headers):
    """The queue where a message ended, or nothing."""
    return str(headers.get("x-last-death-queue") or _last_death(headers).get("queue") or "")


def _last_death(headers):
    deaths = headers.get("x-death") or [{}]
    return deaths[0] if isinstance(deaths[0], dict) else {}


def _arguments(message):
    """The task's arguments, or twice None if they cannot be read, or not be stored as they are."""
    try:
        if message.content_type != "application/json":
            return None, None
        args, kwargs, _ = json.loads(_bytes(message))
        if _storable([args, kwargs]) != [args, kwargs]:
            return None, None
    except (ValueError, RecursionError):
        return None, None
    return (args, kwargs) if isinstance(args, list) and isinstance(kwargs, dict) else (None, None)


def _own(headers):
    """The headers that a sender gave, without those of Celery and RabbitMQ."""
    return {name: headers[name] for name in ("report", "attempt") if name in headers}


def _bytes(message):
    return message.body.encode() if isinstance(message.body, str) else bytes(message.body)


def _digest(message):
    """What is the same when the same dead letter comes again, and another when its task dies another time."""
    death = json.dumps(message.headers.get("x-death"), default=str, sort_keys=True)
    name = json.dumps([message.headers.get(name) for name in ("id", "task", "attempt")] + [death], default=str)
    return hashlib.sha256(name.encode() + b"\0" + _bytes(message)).hexdigest()


def _text(text):
    return text.replace("\0", NUL).encode(errors="replace").decode()


def _storable(value):
    """Like it, as PostgreSQL can store it in JSON."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {_text(str(name)): _storable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float) else _text(str(value))
