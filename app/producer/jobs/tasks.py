"""The producer's own task: the service reports with it how a job ended."""

import logging
import threading
import time
from datetime import datetime

from celery import shared_task
from celery.exceptions import Reject
from celery.signals import worker_process_init
from django.conf import settings
from django.db import DatabaseError, InterfaceError, OperationalError, connection

from producer import logs

from . import results, services
from .models import Job

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 0.2, 5
FILE_SECONDS = 0.2


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
            unfiled.set()


unfiled = threading.Event()


@worker_process_init.connect
def file_results(**kwargs):
    """Write results into the file beside the tasks, many at a time: each time costs a wait for the disk.

    It begins with what a process that was killed has left.
    """
    unfiled.set()
    threading.Thread(target=_file_results, name="results", daemon=True).start()


def _file_results():
    while unfiled.wait():
        unfiled.clear()
        try:
            results.file_all()
        except Exception as exc:  # whatever it is, it must not end this thread
            known = isinstance(exc, DatabaseError | InterfaceError)
            logger.warning("The results file has to wait: %s", str(exc).strip(), exc_info=not known)
            connection.close()
            unfiled.set()
            time.sleep(LAST_PAUSE_SECONDS)
        time.sleep(FILE_SECONDS)


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
