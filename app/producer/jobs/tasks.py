"""The producer's own task: the service reports with it how a job ended."""

import logging
import time
from datetime import datetime

from celery import shared_task
from celery.exceptions import Reject
from celery.signals import worker_ready
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from producer import logs

from . import results, services
from .models import Job

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.2, 5


@shared_task(name="job_ended", ignore_result=True)
def job_ended(*, id, attempt, state, result=None, reason="", worker="", started_at=None, finished_at=None, **more):
    """Bring a job's end home, into its row and into the results file. It may come twice, late, or out of order.

    What it says is in the service's reports; what else it may say one day is ignored. A report that makes no sense is
    an error, and becomes a dead letter.
    """
    with logs.about(id):
        state = Job.State(state)
        values = {
            "result": "" if result is None else str(result),
            "reason": reason or ("" if state == Job.State.DONE else "The service gave no reason."),
            "worker": worker,
            "started_at": started_at and datetime.fromisoformat(started_at),
            "finished_at": finished_at and datetime.fromisoformat(finished_at),
        }
        if state == Job.State.DONE:
            values["filer"] = results.host()
        ended = patiently(services.end, id, attempt, state, **values)
        logger.info("The job is %s: attempt %s, by %s%s", state, attempt, worker, "" if ended else "; no news")
        if state == Job.State.DONE:
            patiently(results.file_all)


@worker_ready.connect
def file_what_was_left(**kwargs):
    """A worker that was killed may have left results that are not in the file; in its place, its successor."""
    try:
        results.file_all()
    except DatabaseError as exc:
        logger.warning("The results file has to wait for PostgreSQL: %s", exc)
    finally:
        connection.close()  # no child of this process may inherit it


def patiently(act, *args, **kwargs):
    """Act, and while PostgreSQL is away wait for it: a worker without it has nothing else to do.

    Reject: it was away for too long; the task comes again.
    """
    deadline = time.monotonic() + settings.PATIENCE_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return act(*args, **kwargs)
        except (OperationalError, InterfaceError) as exc:
            connection.close()
            if time.monotonic() > deadline:
                raise Reject(exc, requeue=True) from exc
            logger.warning("PostgreSQL fails, trying again in %g s: %s", pause, str(exc).strip())
        time.sleep(pause)
        pause = min(pause * 2, LAST_PAUSE_SECONDS)
