"""The producer's own task: the service reports with it how a job ended.

Reports come as fast as the workers of all hosts are together, and each is a row to change. So they are no work for the
pool: the worker's main process takes many at a time, and PostgreSQL changes their rows in one statement.
"""

import logging
import uuid
from datetime import datetime

from celery import shared_task, signals
from django.db import connection

from producer import logs

from . import results, services
from .database import UNAVAILABLE, passes
from .models import Job

logger = logging.getLogger(__name__)

# A batch is what comes within this time, and at most what RabbitMQ lets the worker hold (its prefetch count).
BATCH_SECONDS = 0.1
FILE_SECONDS = 0.5
PAUSE_SECONDS = 2


@shared_task(name="job_ended", ignore_result=True, Strategy="jobs.tasks:Batch")
def job_ended(**report):
    """Bring a job's end home, into its row and into the results file. It may come twice, late, or out of order.

    What it says is in the service's reports (see `read`). One that makes no sense becomes a dead letter.
    """
    bring_home([read(**report)])


def read(*, id, attempt, state, result=None, reason="", worker="", started_at=None, finished_at=None, **more):
    """A report as it is stored; what else it may say one day is ignored. ValueError, TypeError: it makes no sense."""
    state = Job.State(state)
    return services.End(
        job_id=uuid.UUID(id),
        attempt=attempt,
        state=state,
        result="" if result is None else str(result),
        reason=reason or ("" if state == Job.State.DONE else "The service gave no reason."),
        worker=worker,
        started_at=started_at and datetime.fromisoformat(started_at),
        finished_at=finished_at and datetime.fromisoformat(finished_at),
        filer=results.host() if state == Job.State.DONE else "",
    )


class Batch:
    """Celery's strategy for `job_ended`: it holds what comes in, and acknowledges it when it is stored.

    One for each connection to RabbitMQ, which gives what an earlier one held to somebody else.
    """

    def __init__(self, task, app, consumer):
        """Begin with the file: whoever was killed has left something to be filed."""
        self._consumer, self._connection = consumer, consumer.connection
        self._held = []
        self._planned = set()
        self._plan(self._file, 0)

    def __call__(self, message, *args, **kwargs):
        """Take a message."""
        try:
            _, report, _ = message.payload
            self._held.append((message, read(**report)))
        except Exception as exc:  # whatever is wrong with it
            self._reject(message, exc)
        else:
            self._plan(self._store, BATCH_SECONDS)

    def _plan(self, act, seconds):
        def run():
            self._planned.remove(act)
            if self._consumer.connection is self._connection:
                act()

        if act not in self._planned:
            self._planned.add(act)
            self._consumer.timer.call_after(seconds, run)

    def _store(self):
        batch, self._held = self._held, []
        try:
            self._bring_home(batch)
        except UNAVAILABLE as exc:
            logger.warning("%s results wait, since PostgreSQL fails: %s", len(batch), str(exc).strip())
            connection.close()
            # Giving them back would count as a delivery, and there are not many of those; so they stay with us.
            self._held = [one for one in batch if not one[0].acknowledged] + self._held
            self._plan(self._store, PAUSE_SECONDS)

    def _bring_home(self, batch):
        try:
            bring_home([end for _, end in batch])
        except Exception as exc:
            if passes(exc):
                raise
            # Something in there that PostgreSQL cannot store: whose is it?
            if len(batch) > 1:
                for one in batch:
                    self._bring_home([one])
            else:
                self._reject(batch[0][0], exc)
            return
        for message, _ in batch:
            message.ack_log_error(logger, self._consumer.connection_errors)
        self._plan(self._file, FILE_SECONDS)

    def _reject(self, message, exc):
        with logs.about(message.headers.get("root_id")):
            logger.error("A report makes no sense (%s: %s), and is parked", type(exc).__name__, exc)
        message.reject_log_error(logger, self._consumer.connection_errors)

    def _file(self):
        """Write results into the file, many at a time: each time costs a wait for the disk."""
        try:
            results.file_all()
        except UNAVAILABLE as exc:
            logger.warning("The results file waits, since PostgreSQL fails: %s", str(exc).strip())
            connection.close()
            self._plan(self._file, PAUSE_SECONDS)


def bring_home(ends):
    """Store how jobs ended."""
    ended = services.end_all(ends)
    for end in ends:
        with logs.about(end.job_id):
            news = "" if end.job_id in ended else "; no news"
            logger.info("The job is %s: attempt %s, by %s%s", end.state, end.attempt, end.worker, news)


@signals.worker_shutdown.connect
def file_what_is_left(**kwargs):
    """Nothing comes any more, and a host that is taken away has no next start that would file it."""
    try:
        results.file_all()
    except UNAVAILABLE as exc:
        logger.warning("Lines are left for the next start, since PostgreSQL fails: %s", str(exc).strip())
