"""Logs: one JSON object a line, with the id of the task as `job` wherever one is known."""

import re

from celery import current_task
from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

# Celery writes name[id] of a task.
TASK = re.compile(r"\[([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\]")


class Formatter(JsonFormatter):
    """`time`, `level`, `logger`, `message`, and `job` and `exc_info` where there are."""

    def __init__(self):
        super().__init__(
            ["levelname", "name", "message"],
            rename_fields={"levelname": "level", "name": "logger"},
            # Celery's own extra: the task's arguments and result, which are nobody's business here.
            reserved_attrs=[*RESERVED_ATTRS, "data"],
            timestamp="time",
            json_ensure_ascii=False,
        )

    def add_fields(self, log_data, record, message_dict):
        """Add the job."""
        super().add_fields(log_data, record, message_dict)
        found = TASK.search(record.message)
        job = (current_task and current_task.request.id) or (found and found[1])
        if job:
            log_data.setdefault("job", job)
