"""The producer's own settings, with every tier inside this process."""

import os
import tempfile

STATE = tempfile.TemporaryDirectory(prefix="producer-tests-")

os.environ |= {
    "SECRET_KEY": "tests",
    "ALLOWED_HOSTS": "testserver,localhost",
    "DATABASE_URL": "sqlite://",
    "CACHE_URL": "redis://127.0.0.1:1/1",
    "CELERY_BROKER_URL": "memory://",
    "CELERY_RESULT_BACKEND": "cache+memory://",
    "STATE_DIRECTORY": STATE.name,
    "RESULT_WAIT_SECONDS": "3",
}

from producer.settings import *  # noqa: E402, F403
from producer.settings import CACHES, CELERY_BROKER_TRANSPORT_OPTIONS, DATABASES, STORAGES  # noqa: E402

# Kombu's broker in memory looks for messages once a second, unless told otherwise.
CELERY_BROKER_TRANSPORT_OPTIONS |= {"polling_interval": 0.01}

# A file, so that threads see each other's rows, as they would in PostgreSQL.
DATABASES["default"]["TEST"] = {"NAME": f"{STATE.name}/tests.sqlite3"}
# What the settings say about Redis, for the tests that want it, and a cache in memory for those that do not.
REDIS_CACHE = CACHES["default"]
CACHES["default"] = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}
# Nobody has run collectstatic.
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
