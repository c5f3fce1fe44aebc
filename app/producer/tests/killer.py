"""Included by a worker that is to be killed at a certain point, once: the path in KILL_MARK is made when it was."""

import os
import signal
from pathlib import Path

from jobs import parking, results, services

mark = Path(os.environ["KILL_MARK"])


def die_after(module, name):
    """Let the function do its work, and then the process die as in a power cut."""
    real = getattr(module, name)

    def act(*args, **kwargs):
        value = real(*args, **kwargs)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    setattr(module, name, act)


POINTS = {
    "end": (services, "end"),
    "write": (results.os, "fsync"),
    "file": (results, "file_all"),
    "read": (parking, "_digest"),
    "park": (parking, "park"),
}
die_after(*POINTS[os.environ["KILL_AFTER"]])
