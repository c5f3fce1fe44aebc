"""The tasks. Their names and arguments are the whole contract with other projects, so the names are explicit."""

import time

from celery import shared_task

from .models import Joined


@shared_task(name="adding_task", bind=True)
def adding_task(self, first, second, seconds=0):
    """Join two texts, and remember it: `"a"`, `"b"` gives `"a es b"`. It can take `seconds` over it, to be watched."""
    text = f"{first} es {second}"
    Joined.objects.create(task_id=self.key, text=text)
    time.sleep(seconds)
    return text


@shared_task(name="add")
def add(x, y):
    """Add two numbers, taking five seconds over it: a task to watch while it runs."""
    time.sleep(5)
    return x + y
