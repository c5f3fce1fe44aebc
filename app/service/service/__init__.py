"""The service: the Celery worker that owns the tasks. Whoever wants one done knows its name and arguments, no more."""

from .celery import app as celery_app

__all__ = ["celery_app"]
