"""All that happens to a job, each in one transaction. Only PostgreSQL stands between a client and "accepted"."""

import logging
from datetime import timedelta

from django.db import IntegrityError, connection, transaction
from django.db.models import F, Q
from django.utils import timezone

from producer import logs

from .models import Job, Outbox, ParkedTask

logger = logging.getLogger(__name__)

TASK = "adding_task"
QUEUE = "service"
REPORT = {"task": "job_ended", "queue": "results"}
CHANNEL = "outbox"


class KeyReused(Exception):
    """An idempotency key came again, with other content."""


def accept(first, second, *, work_seconds=0, delay_seconds=0, key=None):
    """Take a job: `(job, created)`. The same key and content give the same job, however many ask at once.

    KeyReused: the key belongs to a job of other content.
    """
    content = {"first": first, "second": second, "work_seconds": work_seconds, "delay_seconds": delay_seconds}
    now = timezone.now()
    job = Job(**content, idempotency_key=key, created_at=now, due_at=now + timedelta(seconds=delay_seconds))
    if key is None:
        with transaction.atomic():
            job.save(force_insert=True)
            send(job)
        return _accepted(job), True
    if (known := Job.objects.filter(idempotency_key=key).first()) is None:
        try:
            with transaction.atomic():
                job.save(force_insert=True)  # waits here while another request inserts the same key
                send(job)
        except IntegrityError:
            known = Job.objects.filter(idempotency_key=key).first()
            if known is None:  # it was no matter of the key
                raise
        else:
            return _accepted(job), True
    if any(getattr(known, name) != value for name, value in content.items()):
        raise KeyReused("This idempotency key belongs to a job with other content.")
    return known, False


def _accepted(job):
    with logs.about(job):
        logger.info("The job is accepted")
    return job


def retry(job):
    """Let a failed or parked job wait again, as its next attempt; true for exactly one caller."""
    ended_badly = Job.objects.filter(pk=job.pk, attempt=job.attempt, state__in=Job.ENDED_BADLY)
    with transaction.atomic():
        won = ended_badly.update(
            state=Job.State.WAITING,
            attempt=F("attempt") + 1,
            resends=0,
            due_at=timezone.now(),
            reason="",
            worker="",
            started_at=None,
            finished_at=None,
        )
        job.refresh_from_db()
        if won:
            send(job)
    if won:
        with logs.about(job):
            logger.info("The job is tried again: attempt %s", job.attempt)
    return bool(won)


def retry_parked(parked):
    """Send a parked task that is no job once more; true for exactly one caller, false if it cannot be sent.

    As its next attempt: the service would not repeat one that it knows as failed.
    """
    if not parked.can_be_retried:
        return False
    attempt = parked.headers.get("attempt")
    headers = parked.headers | {"attempt": (attempt if type(attempt) is int else 1) + 1}
    with transaction.atomic():
        won = ParkedTask.objects.filter(pk=parked.pk, retried_at=None).update(retried_at=timezone.now())
        parked.refresh_from_db()
        if won:
            _put(
                task_id=parked.task_id,
                task=parked.task,
                args=parked.args,
                kwargs=parked.kwargs,
                headers=headers,
                queue=parked.queue,
            )
    return bool(won)


def end(job_id, attempt, state, *, result="", reason="", worker="", started_at=None, finished_at=None, filer=""):
    """End a job; true for exactly one caller, however many try, in whatever order.

    A success is one, whichever attempt it comes from, even after a failure was reported: its effect is there. A failure
    counts only for the attempt that is under way. `filer` is the host that will write the job into its results file.
    """
    jobs = Job.objects.filter(pk=job_id)
    if state == Job.State.DONE:
        jobs = jobs.filter(~Q(state=Job.State.DONE))
    else:
        jobs = jobs.filter(state=Job.State.WAITING, attempt=attempt)
    ended = jobs.update(
        state=state,
        result=result,
        reason=reason,
        worker=worker,
        started_at=started_at,
        finished_at=finished_at or timezone.now(),
        filer=filer,
    )
    return bool(ended)


def send(job):
    """Put the job's task into the outbox, within the caller's transaction."""
    _put(
        job=job,
        task_id=str(job.pk),
        task=TASK,
        args=[job.first, job.second],
        kwargs={"seconds": job.work_seconds} if job.work_seconds else {},
        headers={"report": REPORT, "attempt": job.attempt},
        queue=QUEUE,
        due_at=job.due_at,
    )


def _put(**values):
    Outbox.objects.create(**values)
    with connection.cursor() as cursor:
        cursor.execute(f"NOTIFY {CHANNEL}")  # heard by the relays when this transaction commits, not before
