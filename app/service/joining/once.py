"""Once means once: the base class of all tasks here.

RabbitMQ delivers a task at least once: again when its worker dies, when a connection drops, when its sender is not
sure. A task's effect and the record that it ended are one transaction, so the effect is there once. Its sender may ask
for a report by the headers `{"report": {"task": NAME, "queue": NAME}, "attempt": N}` (see `reports`). Each delivery
sends it again, and is acknowledged after that.
"""

import logging
import time
import uuid

import celery
from billiard.exceptions import SoftTimeLimitExceeded
from celery.exceptions import Ignore, Reject, Retry
from django.conf import settings
from django.db import InterfaceError, InternalError, OperationalError, connection, transaction
from django.utils import timezone
from psycopg.errors import QueryCanceled, ReadOnlySqlTransaction

from . import reports
from .models import Execution

logger = logging.getLogger(__name__)

REASON_LENGTH = 2000


class Failed(Exception):
    """A task failed, for this reason. Stands for the task's own exception, which not every process could unpack."""


class Task(celery.Task):
    """A task that takes effect once and reports its end. It may use the default database, not commit to it."""

    Request = "service.worker:Request"
    throws = (Failed,)  # logged below, with the traceback

    def __call__(self, *args, **kwargs):
        """Do it, unless that was done before; report how it ended; return the result or raise `Failed`."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        report = reports.wanted(self.request)
        try:
            execution = self._settle(args, kwargs)
            if report:
                reports.send(report, self.request.id, execution)
        except (SoftTimeLimitExceeded, reports.ReportError) as exc:
            raise Reject(str(exc), requeue=True) from None
        if execution.succeeded:
            return execution.result
        raise Failed(execution.reason)

    @property
    def key(self):
        """The task's id as a UUID, for its effects to carry. An id that is none stands for one that follows from it."""
        try:
            return uuid.UUID(self.request.id)
        except ValueError:
            return uuid.uuid5(uuid.NAMESPACE_OID, self.request.id)

    def _settle(self, args, kwargs):
        """How the task ended, now or earlier. Waits for PostgreSQL; the task comes again when that takes too long."""
        patience = time.monotonic() + settings.PATIENCE_SECONDS
        pause = 0
        while True:
            try:
                return self._attempt(args, kwargs)
            except (OperationalError, InterfaceError, InternalError) as exc:
                if time.monotonic() > patience:
                    raise Reject(f"PostgreSQL failed: {exc}", requeue=True) from None
                logger.warning("PostgreSQL failed, trying again in %s s: %s", pause, exc)
                connection.close()
            time.sleep(pause)
            pause = min(pause + 0.5, 5)

    def _attempt(self, args, kwargs):
        try:
            return self._once(lambda: {"result": self.run(*args, **kwargs)})
        except (Ignore, Reject, Retry):
            raise
        except Exception as exc:
            if _not_the_tasks_fault(exc):
                raise
            # Whatever it was, it took the effect back with it.
            logger.exception("The task failed")
            failure = {"state": Execution.State.FAILED, "reason": self._reason(exc)}
        return self._once(lambda: failure)

    def _once(self, act):
        """The execution as it is stored, or as `act` says: arguments of `Execution.end`. One transaction."""
        with transaction.atomic():
            execution, ours = Execution.objects.begin(
                self.key,
                self.name,
                reports.attempt(self.request),
                (self.request.hostname or "").rpartition("@")[2],
                timezone.now(),
            )
            if ours:
                outcome = act()
                execution.end(timezone.now(), **outcome)
            else:
                logger.info("The task was done before: %s", execution.state)
        return execution

    def _reason(self, exc):
        if isinstance(exc, SoftTimeLimitExceeded):
            limit = (
                (self.request.timelimit or (None, None))[1]
                or self.soft_time_limit
                or self.app.conf.task_soft_time_limit
            )
            return f"It took longer than {limit:g} seconds."
        text = f"{type(exc).__name__}: {exc}".rstrip(": ")[:REASON_LENGTH]
        # What PostgreSQL cannot store.
        return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _not_the_tasks_fault(exc):
    """Whether PostgreSQL went away, takes no writes just now, or had the task wait too long for a lock.

    A slow query is the task's own fault.
    """
    if isinstance(exc, InternalError):
        return isinstance(exc.__cause__, ReadOnlySqlTransaction)
    return isinstance(exc, OperationalError | InterfaceError) and not isinstance(exc.__cause__, QueryCanceled)
