"""The service's own settings, with every tier inside this process."""

import os

os.environ |= {
    "SECRET_KEY": "tests",
    "DATABASE_URL": "sqlite://",
    "CELERY_BROKER_URL": "memory://",
    "CELERY_RESULT_BACKEND": "cache+memory://",
}

from service.settings import *  # noqa: F403
from service.settings import CELERY_BROKER_TRANSPORT_OPTIONS

# Kombu's broker in memory looks for messages once a second, unless told otherwise.
CELERY_BROKER_TRANSPORT_OPTIONS |= {"polling_interval": 0.01}
