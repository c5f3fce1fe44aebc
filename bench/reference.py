"""What jobs are measured against: the service's task with nothing around it. Runs on a node, with a project's packages.

- As a program (`reference.py round N`, `reference.py rate N`): the bare Celery loop, which publishes with confirms to
  the quorum queue, and waits for the results. Prints JSON.
- As a WSGI application: the original design, a view that sends the task, loops until its result is ready, and writes it
  to a file.
"""

import json
import os
import statistics
import sys
import time
from urllib.parse import parse_qs

from celery import Celery
from kombu import Exchange, Queue

app = Celery("reference", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
# As the service declares it.
queue = Queue("service", Exchange("service", "topic"), "service", queue_arguments={"x-queue-type": "quorum"})
app.conf.update(task_queues=[queue], broker_transport_options={"confirm_publish": True})


def join(first, second):
    """The task that the service does for a job, too."""
    return app.send_task("adding_task", [first, second], queue="service")


def application(environ, start_response):
    """The original view."""
    form = parse_qs(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode())
    result = join(form["first"][0], form["second"][0])
    while not result.ready():
        pass
    with open("/run/reference/results.txt", "w") as file:
        file.write(result.get())
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [result.get().encode()]


def rounds(count):
    """Seconds of one round trip after another."""
    took = []
    for number in range(count):
        started = time.perf_counter()
        join("a", str(number)).get(timeout=30)
        took.append(time.perf_counter() - started)
    return {"p50": statistics.median(took)}


def rate(count):
    """Tasks a second, from the first publish to the last result."""
    started = time.perf_counter()
    results = [join("a", str(number)) for number in range(count)]
    for result in results:
        result.get(timeout=60)
    return {"rate": count / (time.perf_counter() - started)}


if __name__ == "__main__":
    join("warm", "up").get(timeout=30)
    print(json.dumps({"round": rounds, "rate": rate}[sys.argv[1]](int(sys.argv[2]))))
