"""Results: shown as soon as Redis has them, kept when they have come home, and then a line each in the results file."""

import fcntl
import logging
import os
import socket
import time
from datetime import datetime

from celery.states import READY_STATES, SUCCESS
from django.conf import settings
from django.db.models import Q
from redis.exceptions import RedisError

from producer import logs
from producer.celery import app

from .models import Job

logger = logging.getLogger(__name__)

# What the result backend raises when it cannot be asked.
UNREACHABLE = (RedisError, OSError)

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.004, 0.25
ROW_SECONDS = 0.25  # the row knows what Redis does not: a failure. Nobody needs it faster.
REDIS_REST_SECONDS = 5  # after an error, Redis is not asked for a while: each question could cost seconds

# As in PostgreSQL's COPY format, into which the file could be read again.
ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
CHUNK = 1000
BATCH = 100
TAIL_BYTES = 1024 * 1024  # more than twice the longest lines of a batch

_redis_rests_until = 0.0


def live(job, seconds=0.0):
    """Show a waiting job as done as soon as that is known, and for so many seconds wait for it; returns the job.

    Nothing is written: the row is changed by the task's report only, which comes a moment later. A Redis that is away
    makes this slower, no more; then the row is all there is to see.
    """
    deadline = time.monotonic() + seconds
    pause, look_at_row = FIRST_PAUSE_SECONDS, time.monotonic() + ROW_SECONDS
    while job.waiting and not _overlay(job, _ask_redis(job)):
        now = time.monotonic()
        if now >= look_at_row or _redis_rests():
            if Job.objects.filter(pk=job.pk).exclude(state=Job.State.WAITING).exists():
                job.refresh_from_db()
                break
            look_at_row = now + ROW_SECONDS
        if now >= deadline:
            break
        time.sleep(min(pause, deadline - now))
        pause = min(pause * 1.3, LAST_PAUSE_SECONDS)
    return job


def _redis_rests():
    return time.monotonic() < _redis_rests_until


def _ask_redis(job):
    global _redis_rests_until
    if _redis_rests():
        return None
    try:
        return app.backend.get_task_meta(str(job.pk))
    except UNREACHABLE as exc:
        _redis_rests_until = time.monotonic() + REDIS_REST_SECONDS
        with logs.about(job):
            logger.warning("Redis cannot be asked for results: %s: %s", type(exc).__name__, exc)
        return None


def _overlay(job, meta):
    # A failure may be an earlier attempt's.
    if meta is None or meta["status"] != SUCCESS:
        return False
    job.state, job.result, job.worker = Job.State.DONE, str(meta["result"]), worker(meta)
    job.finished_at = datetime.fromisoformat(meta["date_done"])
    return True


def fetch(task_id, seconds):
    """What Redis knows about any task, as soon as it has ended (a dict), or None when the time is over."""
    deadline = time.monotonic() + seconds
    pause = FIRST_PAUSE_SECONDS
    while (meta := app.backend.get_task_meta(task_id))["status"] not in READY_STATES:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, LAST_PAUSE_SECONDS)
    return meta


def worker(meta):
    """The host whose worker executed the task: `worker1` of `service:start@worker1`."""
    return (meta.get("worker") or "").partition("@")[2]


def describe(error):
    """A failed task's exception in one line."""
    return f"{type(error).__name__}: {error}"


def line(job):
    """The job's line: time, id, first, second, result, separated by tabs, without an end."""
    values = (job.finished_at.isoformat(), str(job.pk), job.first, job.second, job.result)
    return "\t".join(value.translate(ESCAPES) for value in values)


def stream(since=None):
    """The lines of all jobs that are done, the oldest first, as bytes in chunks; or of those that ended since then.

    In steps from place to place: no transaction lasts as long as the slowest reader.
    """
    jobs = Job.objects.filter(state=Job.State.DONE).order_by("finished_at", "pk")
    jobs = jobs.values_list("finished_at", "pk", "first", "second", "result", named=True)
    if since:
        jobs = jobs.filter(finished_at__gte=since)
    chunk = list(jobs[:CHUNK])
    while chunk:
        yield "".join(f"{line(job)}\n" for job in chunk).encode()
        last = chunk[-1]
        # Said twice, since PostgreSQL finds the place in the index by the first of the two only.
        after = jobs.filter(finished_at__gte=last.finished_at)
        chunk = list(after.filter(Q(finished_at__gt=last.finished_at) | Q(pk__gt=last.pk))[:CHUNK])


def host():
    """The name of this host, in whose results file this process writes."""
    return socket.gethostname().partition(".")[0]


def file_all():
    """Append a line to the results file for each job that this host is to file; never twice for one job.

    A job is done in one transaction and marked as filed in another, after its line is on the disk. Whoever is killed
    between the two leaves lines at the end of the file that are not marked: these are found there. One process at a
    time, and it takes along what the others have brought meanwhile.
    """
    mine = Job.objects.filter(state=Job.State.DONE, filed=False, filer=host()).order_by("finished_at", "pk")
    try:
        with settings.RESULTS_FILE.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            while jobs := list(mine[:BATCH]):
                tail = _tail(file)
                lines = [f"{line(job)}\n" for job in jobs if not _is_in(tail, job)]
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
                Job.objects.filter(pk__in=[job.pk for job in jobs]).update(filed=True)
    except OSError:
        # The rows stay as they are: PostgreSQL holds the truth, the file repeats it, and the next job tries again.
        logger.exception("Could not append to %s", settings.RESULTS_FILE)


def _tail(file):
    """The last complete lines of the file. What a full disk or a kill left of a line is cut off."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - TAIL_BYTES, 0))
    tail = file.read()
    complete = tail[: tail.rfind(b"\n") + 1]
    if len(complete) < len(tail) and (complete or size <= TAIL_BYTES):
        file.truncate(size - len(tail) + len(complete))
    return complete


def _is_in(tail, job):
    name = f"\t{job.pk}\t".encode()
    # Somebody may have sent an id as one of the words: only the second column counts.
    return name in tail and any(one.split(b"\t", 2)[1:2] == [str(job.pk).encode()] for one in tail.split(b"\n"))
