"""The service's Celery app: celery -A service worker"""

import os

from celery import Celery, signals

from .heartbeat import Heartbeat

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "service.settings")

app = Celery("service", task_cls="joining.once:Task")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.loader.override_backends = dict.fromkeys(("redis", "rediss"), "service.results:Results")
app.steps["worker"].add(Heartbeat)
app.autodiscover_tasks()


@signals.setup_logging.connect
def leave_logging_to_django(**kwargs):
    """That somebody listens is what keeps Celery from its own."""
