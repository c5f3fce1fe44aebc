"""The producer's own settings, with the real services of tests/services.sh."""

import os
import tempfile

HOST = "127.0.0.1"
POSTGRESQL_PORT = int(os.environ.get("TEST_POSTGRESQL_PORT", "35432"))
REDIS_PORT = int(os.environ.get("TEST_REDIS_PORT", "36379"))
RABBITMQ_PORT = int(os.environ.get("TEST_RABBITMQ_PORT", "35672"))

STATE = tempfile.TemporaryDirectory(prefix="producer-tests-")

# A vhost and databases of Redis for these tests alone: the service's may run at the same time.
os.environ |= {
    "SECRET_KEY": "tests",
    "ALLOWED_HOSTS": "testserver,localhost",
    "DATABASE_URL": f"postgresql://quintet:quintet@{HOST}:{POSTGRESQL_PORT}/producer",
    "CACHE_URL": f"redis://quintet:quintet@{HOST}:{REDIS_PORT}/1",
    "CELERY_BROKER_URL": f"amqp://quintet:quintet@{HOST}:{RABBITMQ_PORT}/producer",
    "CELERY_RESULT_BACKEND": f"redis://quintet:quintet@{HOST}:{REDIS_PORT}/0",
    "STATE_DIRECTORY": STATE.name,
    "RESULT_WAIT_SECONDS": "3",
}

from producer.settings import *  # noqa: E402, F403
from producer.settings import CACHES, STORAGES  # noqa: E402

# What the settings say about Redis, for tests that change where it is.
REDIS_CACHE = CACHES["default"]
# Nobody has run collectstatic.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
