"""The producer: the web page that takes jobs, hands them to a worker and keeps their results."""

from .celery import app as celery_app

__all__ = ["celery_app"]
