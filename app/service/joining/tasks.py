"""The tasks. Their names and arguments are the whole contract with other projects, so the names are explicit."""

import time

from celery import shared_task


@shared_task(name="adding_task")
def adding_task(first, second):
    """Join two texts: `"a"`, `"b"` gives `"a es b"`."""
    return f"{first} es {second}"


@shared_task(name="add")
def add(x, y):
    """Add two numbers, taking five seconds over it: a task to watch while it runs."""
    time.sleep(5)
    return x + y
