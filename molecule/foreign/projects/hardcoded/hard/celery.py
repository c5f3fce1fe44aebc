import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "hard.settings")

app = Celery("hard", broker="amqp://guest:guest@localhost//", backend="redis://localhost")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
