"""Included by a worker that is to be killed at a certain point, once: the path in KILL_MARK is made when it was."""

import os
import signal
from pathlib import Path

from jobs import parking, results, services

mark = Path(os.environ["KILL_MARK"])


def die_at(module, name, late=True):
    """Let the process die as in a power cut: when the function has done its work, or instead of it."""
    real = getattr(module, name)

    def act(*args, **kwargs):
        value = real(*args, **kwargs) if late else None
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value if late else real(*args, **kwargs)

    setattr(module, name, act)


POINTS = {
    "begin": (services, "end_all", False),
    "end": (services, "end_all"),
    "write": (results.os, "fsync"),
    "file": (results, "file_all"),
    "read": (parking, "_digest"),
    "park": (parking, "park"),
}
die_at(*POINTS[os.environ["KILL_AT"]])
