"""All that happens to a job, each in one transaction. Only PostgreSQL stands between a client and "accepted"."""

import logging
import uuid
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.utils import timezone

from producer import logs

from .models import Job, Outbox, ParkedTask

logger = logging.getLogger(__name__)

TASK = "adding_task"
QUEUE = "service"
REPORT = {"task": "job_ended", "queue": "results"}
CHANNEL = "outbox"  # the relays listen to it
# Apart from the transaction that it tells of, and without waiting for any disk: of all that notify, PostgreSQL commits
# one after the other, and each would wait until the members of a cluster have what the one before wrote.
WAKE = f"SET LOCAL synchronous_commit = off; NOTIFY {CHANNEL}"
CONTENT = ("first", "second", "work_seconds", "delay_seconds")

# Results come as fast as all workers together work: one statement for many of them takes a tenth of the ORM's time.
END = """
    UPDATE jobs_job SET
        state = new.state, result = new.result, reason = new.reason, worker = new.worker,
        started_at = new.started_at, finished_at = coalesce(new.finished_at, now()), filer = new.filer
    FROM unnest(
        %s::uuid[], %s::smallint[], %s::text[], %s::text[], %s::text[], %s::text[],
        %s::timestamptz[], %s::timestamptz[], %s::text[]
    ) AS new (id, attempt, state, result, reason, worker, started_at, finished_at, filer)
    WHERE jobs_job.id = new.id AND CASE new.state
        WHEN 'done' THEN jobs_job.state <> 'done'
        ELSE jobs_job.state = 'waiting' AND jobs_job.attempt = new.attempt
    END
    RETURNING jobs_job.id
"""


class KeyReused(Exception):
    """An idempotency key came again, with other content."""


def accept(first, second, *, work_seconds=0, delay_seconds=0, key=None):
    """Take a job: `(job, created)`. The same key and content give the same job, however many ask at once.

    KeyReused: the key belongs to a job of other content.
    """
    content = {"first": first, "second": second, "work_seconds": work_seconds, "delay_seconds": delay_seconds}
    [job], created = _accept([content], [key])
    return job, created


def accept_all(contents, key=None):
    """Take many jobs (dicts of what `accept` takes), all or none, under one key: `(jobs, created)`."""
    # No key of a single job has a space.
    keys = [key and f"{key} {number}" for number in range(len(contents) + 1)]
    return _accept(contents, keys[:-1], keys[-1])


def _accept(contents, keys, next_key=None):
    now = timezone.now()
    jobs = [
        Job(
            **content,
            idempotency_key=key,
            created_at=now,
            due_at=now + timedelta(seconds=content.get("delay_seconds", 0)),
        )
        for content, key in zip(contents, keys, strict=True)
    ]
    if keys[0] is not None and (known := _known(jobs, next_key)):
        return known, False
    try:
        with transaction.atomic():
            Job.objects.bulk_create(jobs)  # waits here while another request inserts the same key
            send(*jobs)
    except IntegrityError:
        if keys[0] is not None and (known := _known(jobs, next_key)):
            return known, False
        raise  # it was no matter of the key
    for job in jobs:
        with logs.about(job):
            logger.info("The job is accepted")
    return jobs, True


def _known(jobs, next_key):
    """The jobs that came with these keys before, in their order, or nothing. KeyReused: they are others."""
    keys = [job.idempotency_key for job in jobs]
    known = {job.idempotency_key: job for job in Job.objects.filter(idempotency_key__in=[*keys, next_key])}
    if not known:
        return None
    if known.keys() != set(keys) or any(
        getattr(known[job.idempotency_key], name) != getattr(job, name) for job in jobs for name in CONTENT
    ):
        raise KeyReused("This idempotency key belongs to a request with other content.")
    return [known[key] for key in keys]


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
            message = Outbox(
                task_id=parked.task_id,
                task=parked.task,
                args=parked.args,
                kwargs=parked.kwargs,
                headers=headers,
                queue=parked.queue,
            )
            _post([message])
    return bool(won)


class End(NamedTuple):
    """How a job ended, as somebody reports it."""

    job_id: uuid.UUID
    attempt: int
    state: str
    result: str = ""
    reason: str = ""
    worker: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    filer: str = ""  # the host that will write the job into its results file


def end(job_id, attempt, state, **values):
    """End a job; true for exactly one caller, however many try, in whatever order. See `End` and `end_all`."""
    return bool(end_all([End(job_id, attempt, state, **values)]))


def end_all(ends):
    """End jobs, as a list of `End` says; returns the ids of those for which that was news.

    A success is one, whichever attempt it comes from, even after a failure was reported: its effect is there. A failure
    counts only for the attempt that is under way.
    """
    ended = set()
    with transaction.atomic(), connection.cursor() as cursor:
        for batch in _one_each(ends):
            cursor.execute(END, [list(column) for column in zip(*batch, strict=True)])
            ended.update(row[0] for row in cursor.fetchall())
    return ended


def _one_each(ends):
    """In parts, in their order: in one statement a row can change only once."""
    part = {}
    for one in ends:
        if one.job_id in part:
            yield part.values()
            part = {}
        part[one.job_id] = one
    if part:
        yield part.values()


def send(*jobs):
    """Put the jobs' tasks into the outbox, within the caller's transaction."""
    _post(
        Outbox(
            job=job,
            task_id=str(job.pk),
            task=TASK,
            args=[job.first, job.second],
            kwargs={"seconds": job.work_seconds} if job.work_seconds else {},
            headers={"report": REPORT, "attempt": job.attempt},
            queue=QUEUE,
            due_at=job.due_at,
        )
        for job in jobs
    )


def _post(messages):
    Outbox.objects.bulk_create(messages)
    # If that fails, the relays look by themselves within a second; what was committed is accepted.
    transaction.on_commit(_wake, robust=True)


def _wake():
    with connection.cursor() as cursor:
        cursor.execute(WAKE)
