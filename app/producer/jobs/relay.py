"""The relay: sends what is in the outbox, for as long as it runs. Any number of them may run at the same time.

A message is deleted in the transaction that has it locked, after RabbitMQ has confirmed it. So whatever fails, nothing
is lost. What was sent and not deleted, because something failed in between, is sent again, and the service does not
mind: once means once there.
"""

import logging
import time
from datetime import timedelta

import psycopg
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from producer import logs
from producer.heartbeat import notify

from . import results, services
from .broker import PublishError, Sender
from .database import UNAVAILABLE
from .models import Job, Outbox

logger = logging.getLogger(__name__)

BATCH = 100
IDLE_SECONDS = 1
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.5, 5

# Waiting since 1, 2, 4, ... times RESEND_SECONDS after it was due, and not about to be sent. Two relays that look at
# once wait for each other's row here, and the second finds that it has been counted.
OVERDUE = """
    UPDATE jobs_job SET resends = resends + 1 WHERE id IN (
        SELECT id FROM jobs_job
        WHERE state = 'waiting' AND due_at < now() - %(seconds)s * interval '1 second'
        AND due_at < now() - %(seconds)s * interval '1 second' * power(2, least(resends, 20))
        AND NOT EXISTS (SELECT FROM jobs_outbox WHERE job_id = jobs_job.id)
        ORDER BY due_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ) RETURNING id
"""


class Relay:
    """A loop around `turn`, which outlives whatever PostgreSQL and RabbitMQ do."""

    def __init__(self):
        """Nothing is connected yet."""
        self._sender = Sender()
        self._listening = None  # the connection that does
        self._swept = time.monotonic()
        self._pause = 0
        self._sent = 0
        self._stopping = False

    def stop(self, *args):
        """End after the batch that is under way. Fit to be a signal's handler."""
        self._stopping = True

    def run(self):
        """Until `stop`. Ready is who tries: neither PostgreSQL nor RabbitMQ need be there."""
        notify("READY=1")
        while not self._stopping:
            notify("WATCHDOG=1")
            try:
                self.turn()
            except (PublishError, *UNAVAILABLE, psycopg.Error) as exc:
                self._rest_after(exc)
            else:
                self._go_on()
        notify("STOPPING=1")
        self._sender.drop()
        connection.close()

    def turn(self):
        """Send a batch. If that was all, wait for more: a moment, or until somebody commits to the outbox."""
        self._listen()
        if time.monotonic() - self._swept >= settings.SWEEP_SECONDS:
            self._swept = time.monotonic()
            sweep()
        if self.send() < BATCH and not self._woken():
            self._sender.refresh()

    def send(self):
        """Send a batch and return how many messages were in it."""
        taken, error = [], None
        with transaction.atomic():
            # Those that another relay is about to send are its own.
            batch = list(Outbox.objects.select_for_update(skip_locked=True)[:BATCH])
            if not batch:
                return 0
            try:
                self._sender.send(batch, taken.append)
            except PublishError as exc:
                error = exc
            if taken:
                _sent(taken)
        for message in taken:
            with logs.about(message.task_id):
                logger.info("RabbitMQ has %s for %s", message.task, message.queue)
        self._sent += len(taken)
        if error:
            raise error
        return len(batch)

    def _listen(self):
        connection.ensure_connection()
        if self._listening is not connection.connection:
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('application_name', %s, false)", [f"relay@{results.host()}"])
                cursor.execute(f"LISTEN {services.CHANNEL}")
            self._listening = connection.connection

    def _woken(self):
        return any(list(self._listening.notifies(timeout=IDLE_SECONDS, stop_after=1)))

    def _rest_after(self, exc):
        if isinstance(exc, PublishError):
            text = str(exc)
        else:
            text = f"PostgreSQL fails ({type(exc).__name__}: {str(exc).strip()})"
            try:
                connection.close()
            except DatabaseError:
                logger.debug("The connection was closed already", exc_info=True)
        self._pause = min(self._pause * 2, LAST_PAUSE_SECONDS) or FIRST_PAUSE_SECONDS
        logger.error("%s. Trying again in %g s", text, self._pause)
        notify(f"STATUS={text}")
        end = time.monotonic() + self._pause
        while not self._stopping and time.monotonic() < end:
            time.sleep(0.1)

    def _go_on(self):
        if self._pause:
            logger.info("Going on")
        self._pause = 0
        notify(f"STATUS={self._sent} tasks sent")


def _sent(messages):
    Outbox.objects.filter(pk__in=[message.pk for message in messages]).delete()
    # One that could not be sent for long is due from now on: the sweeper would send it again at once.
    now = timezone.now()
    late = now - timedelta(seconds=settings.RESEND_SECONDS / 2)
    jobs = [message.job_id for message in messages if message.job_id and message.due_at < late]
    if jobs:
        Job.objects.filter(pk__in=jobs, state=Job.State.WAITING).update(due_at=now)


def sweep():
    """Send again what has been waiting for too long; returns how many jobs that are."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(OVERDUE, {"seconds": settings.RESEND_SECONDS})
            ids = [row[0] for row in cursor.fetchall()]
        jobs = list(Job.objects.filter(pk__in=ids))
        services.send(*jobs)
    for job in jobs:
        with logs.about(job):
            logger.warning("Sending the job again, which has been waiting since %s (%s)", job.due_at, job.resends)
    return len(jobs)
