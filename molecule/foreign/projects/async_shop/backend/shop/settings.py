"""Each part of each service's address is a variable of its own, and none has a default."""

from os import environ
from pathlib import Path
from urllib.parse import quote

SECRET_KEY = environ["SHOP_SECRET_KEY"]
DEBUG = environ.get("SHOP_DEBUG") == "yes"
ALLOWED_HOSTS = environ["SHOP_HOSTS"].split(",")

# What confirms an order; all hosts have the same.
SIGNING_KEY = Path(environ["SHOP_KEYS"], "signing.key").read_text().strip()

INSTALLED_APPS = ["django.contrib.staticfiles", "django_celery_beat", "orders"]
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "shop.urls"
ASGI_APPLICATION = "shop.asgi.application"
STATIC_URL = "static/"
STATIC_ROOT = environ.get("STATIC_ROOT")
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": environ["POSTGRES_HOST"],
        "PORT": environ["POSTGRES_PORT"],
        "NAME": environ["POSTGRES_DB"],
        "USER": environ["POSTGRES_USER"],
        "PASSWORD": environ["POSTGRES_PASSWORD"],
    }
}


def address(service, scheme, path):
    """The URL of a service, from its variables."""
    parts = environ[f"{service}_USER"], environ[f"{service}_PASSWORD"], path
    user, password, path = (quote(part, safe="") for part in parts)
    return f"{scheme}://{user}:{password}@{environ[f'{service}_HOST']}:{environ[f'{service}_PORT']}/{path}"


CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": address("CACHE", "redis", environ["CACHE_DB"]),
    }
}

CELERY_BROKER_URL = address("RABBITMQ", "amqp", environ["RABBITMQ_VHOST"])
CELERY_RESULT_BACKEND = address("REDIS", "redis", environ["REDIS_DB"])
CELERY_TASK_DEFAULT_QUEUE = "orders"
CELERY_TASK_ROUTES = {"orders.tasks.send_mail": {"queue": "mail"}}
CELERY_BEAT_SCHEDULE = {"tick": {"task": "orders.tasks.tick", "schedule": 2.0}}
