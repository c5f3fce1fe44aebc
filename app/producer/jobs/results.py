"""Fetching results: from Redis into the job's row, and as one line into the results file."""

import fcntl
import logging
import time
from datetime import datetime

from celery.states import READY_STATES, SUCCESS
from django.conf import settings
from redis.exceptions import RedisError

from producer.celery import app

from .models import Job

logger = logging.getLogger(__name__)

# What the result backend raises when it cannot be asked.
UNREACHABLE = (RedisError, OSError)

# As in PostgreSQL's COPY format, into which the file could be read again.
ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def fetch(task_id, seconds=0.0):
    """Look for a task's result, again and again until it is there or the time is over (None). Zero looks once."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while (meta := app.backend.get_task_meta(task_id))["status"] not in READY_STATES:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.25)
    return meta


def worker(meta):
    """The host whose worker executed the task: `worker1` of `service@worker1`."""
    return (meta.get("worker") or "").partition("@")[2]


def describe(error):
    """A failed task's exception in one line."""
    return f"{type(error).__name__}: {error}"


def collect(job, seconds=0.0):
    """Store a waiting job's result, if there is one in time."""
    if not job.waiting or (meta := fetch(str(job.pk), seconds)) is None:
        return
    ended = {"worker": worker(meta), "finished_at": datetime.fromisoformat(meta["date_done"])}
    if meta["status"] != SUCCESS:
        job.finish(Job.State.FAILED, reason=f"The task failed ({describe(meta['result'])})", **ended)
    elif job.finish(Job.State.DONE, result=str(meta["result"]), **ended):
        append(job)


def line(job):
    """The job's line in the results file: time, id, first, second, result, separated by tabs."""
    values = (job.finished_at.isoformat(), str(job.pk), job.first, job.second, job.result)
    return "\t".join(value.translate(ESCAPES) for value in values)


def append(job):
    """Append the job's line to the results file.

    The row is committed by now, and stays whatever happens here: PostgreSQL holds the truth, the file repeats it. A
    line that cannot be written goes to the log instead.
    """
    try:
        with settings.RESULTS_FILE.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(line(job) + "\n")
    except OSError:
        logger.exception("Could not append to %s: %s", settings.RESULTS_FILE, line(job))
