"""Tasks as bad as they come, for the workers of the tests: `--include tests.tasks`."""

import os
import signal
import time
from pathlib import Path

from celery import shared_task
from django.db import connection

from joining.models import Joined

# The worker's main process, made to hang for a moment.
signal.signal(signal.SIGUSR2, lambda *_: time.sleep(2))


def note(task, path):
    """Leave an effect that a rollback takes back, and a line in a file that it does not."""
    Joined.objects.create(task_id=task.key, text="effect")
    with Path(path).open("a") as file:
        file.write("run\n")


class Unpicklable(Exception):
    """Cannot be made from its arguments, as many exceptions of many libraries."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


EXCEPTIONS = {
    "plain": ValueError("asked to fail"),
    "silent": KeyError(),
    "unpicklable": Unpicklable("this", "that"),
    "memory": MemoryError("no more"),
    "nul": ValueError("a\0b"),
    "surrogate": ValueError("a\ud800b"),
    "long": ValueError("x" * 1_000_000),
}
RESULTS = {"object": object(), "nan": float("nan"), "nul": "a\0b", "surrogate": "a\ud800b"}


@shared_task(name="tests.fail", bind=True)
def fail(self, path, kind="plain"):
    """Raise."""
    note(self, path)
    raise EXCEPTIONS[kind]


@shared_task(name="tests.give", bind=True)
def give(self, path, kind):
    """Return what cannot be stored."""
    note(self, path)
    return RESULTS[kind]


@shared_task(name="tests.flaky", bind=True)
def flaky(self, path, works_from):
    """Raise in all attempts before this one."""
    note(self, path)
    if self.request.get("attempt") < works_from:
        raise ValueError("not yet")
    return "at last"


@shared_task(name="tests.retried", bind=True)
def retried(self, path):
    """Have Celery retry it, once."""
    note(self, path)
    if not self.request.retries:
        raise self.retry(countdown=0)
    return "at last"


@shared_task(name="tests.slow", bind=True)
def slow(self, path, how="sleep"):
    """Take a minute: in Python, in PostgreSQL, or deaf to the soft time limit."""
    note(self, path)
    if how == "query":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")
    while True:
        try:
            time.sleep(60)
        except Exception:
            if how != "deaf":
                raise


@shared_task(name="tests.die", bind=True)
def die(self, path, times):
    """Kill the process that executes it, so many times."""
    note(self, path)
    if Path(path).read_text().count("run") <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"
