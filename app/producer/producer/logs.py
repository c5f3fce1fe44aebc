"""Logs: one JSON object a line, with the id of the job as `job` wherever one is known."""

import re
from contextlib import contextmanager
from contextvars import ContextVar

from celery import current_task
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

# Celery writes name[id] of a task, Django and we the path of a job's page.
MENTION = re.compile(r"[\[/]([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\b")

_job = ContextVar("job", default=None)


@contextmanager
def about(job):
    """What is logged meanwhile is about this job (or its id)."""
    token = _job.set(str(getattr(job, "pk", job)))
    try:
        yield
    finally:
        _job.reset(token)


class Formatter(JsonFormatter):
    """`time`, `level`, `logger`, `message`, and `job` and `exc_info` where there are."""

    def __init__(self):
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            # What Celery and Django add: a task's arguments and result, a request. Nobody's business here.
            reserved_attrs=[*RESERVED_ATTRS, "data", "request", "status_code"],
            timestamp="time",
            json_ensure_ascii=False,
        )

    def add_fields(self, log_data, record, message_dict):
        """Add the job: the one that is said to be it, the one that the message mentions, or the task that runs."""
        super().add_fields(log_data, record, message_dict)
        mentioned = MENTION.search(record.message)
        job = _job.get() or (mentioned and mentioned[1]) or (current_task and current_task.request.id)
        if job:
            log_data.setdefault("job", job)
