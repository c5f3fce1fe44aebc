"""Where Celery's main process would lose a message, or try for long what cannot succeed, it is parked instead.

Parked means rejected for good: RabbitMQ puts it into the queue of dead letters.
"""

import logging

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import TimeLimitExceeded
from celery.worker import request, state

from . import heartbeat

logger = logging.getLogger(__name__)


class Consumer(heartbeat.Consumer):
    """Celery acknowledges what it cannot decode, which then is gone."""

    def on_decode_error(self, message, exc):
        """Park it."""
        logger.critical("A message that cannot be decoded (%s) is parked: %s", message.content_type, exc)
        message.reject_log_error(logger, self.connection_errors)


class Request(request.Request):
    """Celery has a task that exceeded its hard time limit delivered again, and it would exceed it again."""

    def on_failure(self, exc_info, *args, **kwargs):
        """Park it, but not when it was killed only because the worker stops."""
        exc = exc_info.exception
        exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
        if isinstance(exc, TimeLimitExceeded) and not self.task.acks_on_timeout and not state.should_terminate:
            self.reject(requeue=False)
        super().on_failure(exc_info, *args, **kwargs)
