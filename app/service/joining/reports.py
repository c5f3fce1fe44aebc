"""Reports: whoever sends a task can be told how it ended, by a task of theirs, on a queue of theirs.

That task gets `id`, `attempt`, `state` ("done" or "failed"), `result`, `reason`, `worker` (a host), `started_at` and
`finished_at` (ISO 8601). At least once: it must not mind a second time.
"""

import logging
import time
import uuid

from billiard.exceptions import SoftTimeLimitExceeded
from celery import current_app
from celery.exceptions import Reject
from django.conf import settings

logger = logging.getLogger(__name__)

CONFIRM_SECONDS = 3
# Each step of a publish is bounded, and tried once: tries are counted here.
BOUNDS = {"confirm_publish": True, "read_timeout": 5, "write_timeout": 5, "max_retries": 0}
STATES = {"succeeded": "done", "failed": "failed"}

_producer = None  # of this process, from its first report on


class ReportError(Exception):
    """RabbitMQ did not take the report."""


def wanted(request):
    """Where the end of this task is to be reported, or None. A message that does not say it well is parked."""
    report = request.get("report")
    wellformed = isinstance(report, dict) and all(isinstance(report.get(key), str) for key in ("task", "queue"))
    if (report is None or wellformed) and attempt(request):
        return report
    raise Reject("The headers 'report' and 'attempt' are not as they should be.", requeue=False)


def attempt(request):
    """Which of its sender's attempts this is, from 1; None if that cannot be."""
    number = request.get("attempt") or 1
    return number if type(number) is int and 0 < number < 2**15 else None


def send(report, task_id, execution):
    """Report how a task ended; RabbitMQ has confirmed that it holds the report, or there is a `ReportError`."""
    values = {
        "id": task_id,
        "attempt": execution.attempt,
        "state": STATES[execution.state],
        "result": execution.result,
        "reason": execution.reason,
        "worker": execution.worker,
        "started_at": execution.started_at.isoformat(),
        "finished_at": execution.finished_at.isoformat(),
    }
    patience = time.monotonic() + settings.REPORT_SECONDS
    pause = 0  # a connection that died since the last report shows at once
    while True:
        try:
            return _publish(report, values)
        except SoftTimeLimitExceeded:
            _disconnect()
            raise
        except Exception as exc:  # kombu, amqp and the socket each have their own, and nobody cares for the difference
            _disconnect()
            if time.monotonic() > patience:
                raise ReportError(f"RabbitMQ did not take the report ({type(exc).__name__}: {exc})") from exc
            logger.warning("Could not report, trying again in %s s: %s: %s", pause, type(exc).__name__, exc)
        time.sleep(pause)
        pause = min(pause + 0.5, 5)


def _publish(report, values):
    global _producer
    if _producer is None:
        connection = current_app.connection_for_write(transport_options=BOUNDS)
        _producer = current_app.amqp.Producer(connection, auto_declare=False)
    report_id = str(uuid.uuid4())
    # Celery's message protocol 2. Its own way to this message takes three times as long, and each task waits for it.
    _producer.publish(
        ((), values, {}),
        exchange="",
        routing_key=report["queue"],
        mandatory=True,  # without its queue it would be confirmed, and gone
        confirm_timeout=CONFIRM_SECONDS,
        delivery_mode="persistent",
        serializer="json",
        headers={"lang": "py", "task": report["task"], "id": report_id, "root_id": values["id"], "ignore_result": True},
        correlation_id=report_id,
    )


def _disconnect():
    """Never use a connection after an error: a confirmation that arrives late would be taken for the next message's."""
    global _producer
    if _producer is not None:
        _producer.connection.collect()
    _producer = None
