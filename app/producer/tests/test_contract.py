"""The two projects share no code. What they must agree on is compared here, each in its own process."""

import json
import os
import subprocess
import sys
from pathlib import Path

PRODUCER = Path(__file__).resolve().parent.parent
SERVICE = PRODUCER.parent / "service"

DESCRIBE = """
import json, sys, django
from {project} import celery_app as app
django.setup()
app.loader.import_default_modules()
queue = app.amqp.queues["service"]
print(json.dumps({{
    "queue": [queue.name, queue.routing_key, queue.durable, queue.auto_delete, queue.exclusive, queue.queue_arguments],
    "exchange": [queue.exchange.name, queue.exchange.type, queue.exchange.durable, queue.exchange.auto_delete],
    "serializers": [app.conf.task_serializer, app.conf.result_serializer, app.conf.accept_content],
    "tasks": sorted(name for name in app.tasks if not name.startswith("celery.")),
    "extended": app.conf.result_extended,
}}))
"""


def describe(folder):
    code = DESCRIBE.format(project=folder.name)
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": f"{folder.name}.settings"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_both_projects_mean_the_same():
    producer, service = describe(PRODUCER), describe(SERVICE)
    assert producer["queue"][-1] == {"x-queue-type": "quorum"}
    assert producer["exchange"][:2] == ["service", "topic"]
    tasks = producer.pop("tasks"), service.pop("tasks")
    assert producer == service
    assert tasks == (["job_ended"], ["add", "adding_task"])
