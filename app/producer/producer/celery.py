"""The producer's Celery app: the relay sends tasks with it, pages look at results, and a worker takes them home.

celery -A producer worker -Q results
"""

import os

from celery import Celery, signals
from celery.backends.redis import RedisBackend
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from .heartbeat import Heartbeat

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "producer.settings")


class PolledRedisBackend(RedisBackend):
    """Redis as a place to look a result up, and nothing a request has to wait for."""

    def __init__(self, *args, **kwargs):
        """Retry once, at once: a connection may have gone stale, but a Redis that is down must not cost seconds."""
        super().__init__(*args, **kwargs)
        self.connparams["retry"] = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))

    def on_task_call(self, producer, task_id):
        """Do not subscribe: Celery would, before every publish, so that no task could be sent while Redis is down."""


app = Celery("producer")
app.loader.override_backends = dict.fromkeys(("redis", "rediss"), "producer.celery:PolledRedisBackend")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.steps["worker"].add(Heartbeat)
app.steps["consumer"].add("jobs.parking:Parking")
app.autodiscover_tasks()


@signals.setup_logging.connect
def leave_logging_to_django(**kwargs):
    """That somebody listens is what keeps Celery from its own."""
