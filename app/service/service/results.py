"""The result backend: Redis shows results while they are fresh. It is not the truth: it fails no task, delays none."""

import logging
import time

from celery.backends.redis import RedisBackend
from celery.exceptions import BackendStoreError
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 5


class Results(RedisBackend):
    """Celery's Redis backend, except that a result that cannot be stored is not stored."""

    _away_until = 0

    def __init__(self, *args, **kwargs):
        """Retry once, at once, and only what a connection that went stale explains."""
        super().__init__(*args, **kwargs)
        self.connparams["retry"] = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))

    def store_result(self, task_id, result, state, **kwargs):
        """Try once, and after a failure not for a while."""
        if time.monotonic() < self._away_until:
            return result
        try:
            return super().store_result(task_id, result, state, **kwargs)
        except (BackendStoreError, RedisError, OSError) as exc:
            self._away_until = time.monotonic() + PAUSE_SECONDS
            logger.warning("Redis took no result: %s: %s", type(exc).__name__, exc)
            return result
