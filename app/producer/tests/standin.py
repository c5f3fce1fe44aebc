"""What stands in for the service: a Celery worker that knows the contract, and nothing else of the real one.

It does not remember what it did, so that a message that is delivered twice shows.
"""

import json
import os
import time
from datetime import UTC, datetime

from celery import Celery
from kombu import Exchange, Queue

app = Celery("service")
app.conf.update(
    broker_url=os.environ["CELERY_BROKER_URL"],
    result_backend=os.environ["CELERY_RESULT_BACKEND"],
    task_queues=[Queue("service", Exchange("service", "topic"), "service", queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue="service",
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    result_extended=True,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


def report(request, **values):
    """Tell the sender, as the contract has it."""
    wanted = request.get("report")
    if wanted is None:
        return
    host = request.hostname.partition("@")[2]
    values = {
        "id": request.id,
        "attempt": request.get("attempt"),
        "worker": host,
        "reason": "",
        "result": None,
    } | values
    app.send_task(wanted["task"], kwargs=values, exchange=Exchange(""), routing_key=wanted["queue"], ignore_result=True)


@app.task(name="adding_task", bind=True)
def adding_task(self, first, second, seconds=0):
    """Join two words. The first may be a wish: `fail`, or to tell nobody (`hush`), or Redis only (`redis`)."""
    started = datetime.now(UTC)
    time.sleep(seconds)
    times = {"started_at": started.isoformat(), "finished_at": datetime.now(UTC).isoformat()}
    if first == "fail":
        report(self.request, state="failed", reason="ValueError: asked to fail", **times)
        raise ValueError("asked to fail")
    text = f"{first} es {second}"
    if first not in ("hush", "redis"):
        report(self.request, state="done", result=text, **times)
    return text


@app.task(name="echo")
def echo(*args, **kwargs):
    """What it was given."""
    return json.loads(json.dumps([args, kwargs]))
