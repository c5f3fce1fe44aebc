"""The service's own settings, with the real services of tests/services.sh."""

import os

HOST = "127.0.0.1"
POSTGRESQL_PORT = int(os.environ.get("TEST_POSTGRESQL_PORT", "35432"))
REDIS_PORT = int(os.environ.get("TEST_REDIS_PORT", "36379"))
RABBITMQ_PORT = int(os.environ.get("TEST_RABBITMQ_PORT", "35672"))
MANAGEMENT_PORT = int(os.environ.get("TEST_MANAGEMENT_PORT", "35673"))

# A vhost and a database of Redis for these tests alone: the producer's may run at the same time.
os.environ |= {
    "SECRET_KEY": "tests",
    "DATABASE_URL": f"postgresql://quintet:quintet@{HOST}:{POSTGRESQL_PORT}/service",
    "CELERY_BROKER_URL": f"amqp://quintet:quintet@{HOST}:{RABBITMQ_PORT}/service",
    "CELERY_RESULT_BACKEND": f"redis://quintet:quintet@{HOST}:{REDIS_PORT}/2",
}

from service.settings import *  # noqa: E402, F403
