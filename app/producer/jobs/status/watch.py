"""Many viewers, one look."""

import json
import logging
import threading
import time

from django_redis import get_redis_connection
from redis.exceptions import RedisError

from . import seen
from .look import PATIENCE_SECONDS, look

logger = logging.getLogger(__name__)

FRESH_SECONDS = 2  # so long one look does for everybody
WATCHED_SECONDS = 6  # so long after somebody asked we go on looking: the page asks more often
STALE_SECONDS = 6  # an older look is not shown any more
SHARED, CHOSEN = "status:look:1", "status:chosen"


class Watch:
    """The latest look: renewed in the background while somebody asks, and shared by all web hosts in Redis."""

    def __init__(self):
        """Nothing was seen yet."""
        self._changed = threading.Condition()
        self._latest, self._since = None, float("-inf")
        self._asked, self._watching = 0.0, False

    def current(self):
        """The latest look; waits, within bounds, only if there is none that is worth showing."""
        with self._changed:
            self._asked = time.monotonic()
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="watch", daemon=True).start()
            self._changed.wait_for(self._is_recent, PATIENCE_SECONDS + 0.5)
            return self._latest

    def _is_recent(self):
        return time.monotonic() - self._since < STALE_SECONDS

    def _watch(self):
        try:
            while True:
                self._renew()
                with self._changed:
                    self._changed.wait(FRESH_SECONDS)
                    if time.monotonic() - self._asked > WATCHED_SECONDS:
                        self._watching = False
                        return
        except BaseException:
            self._watching = False
            raise

    def _renew(self):
        started = time.monotonic()
        redis, latest, age = self._shared()
        if latest is None:
            latest, age = look(PATIENCE_SECONDS - (time.monotonic() - started), redis), 0.0
        with self._changed:
            self._latest, self._since = latest, time.monotonic() - age
            self._changed.notify_all()
        if redis is not None and age == 0.0:
            self._share(redis, latest)

    def _shared(self):
        """Redis if it answers, and another process's look with its age if that will do."""
        redis = get_redis_connection("default")
        try:
            found, left = redis.pipeline().get(SHARED).pttl(SHARED).execute()
            age = STALE_SECONDS - left / 1000
            if found is None:
                return redis, None, 0.0
            # One process renews it, the others show what there is. Should that one fail, another is chosen soon.
            if age < FRESH_SECONDS or not redis.set(CHOSEN, seen.WEB, nx=True, px=int(PATIENCE_SECONDS * 1000)):
                return redis, json.loads(found), max(age, 0.001)
        except (RedisError, OSError) as exc:
            logger.info("No look is shared: %s", type(exc).__name__)
            return None, None, 0.0
        return redis, None, 0.0

    def _share(self, redis, latest):
        try:
            redis.pipeline().set(SHARED, json.dumps(latest), px=int(STALE_SECONDS * 1000)).delete(CHOSEN).execute()
        except (RedisError, OSError) as exc:
            logger.info("The look is not shared: %s", type(exc).__name__)


watch = Watch()
