"""Who was seen, and when: web hosts by their heartbeat, workers by their answers.

Kept in Redis for all web hosts, and in each process as well, in case Redis is away.
"""

import logging
import time

from django_redis import get_redis_connection
from redis.exceptions import RedisError

from jobs import results

logger = logging.getLogger(__name__)

WEB = f"web@{results.host()}"
KEY = "status:seen"
BEAT_SECONDS = 5
FORGET_SECONDS = 600

_here = {}


def note(names, redis=None):
    """Note that these are alive, `kind@host` each. Returns the age in seconds of all that were seen lately."""
    now = time.time()
    _here.update(dict.fromkeys(names, now))
    if redis is not None:
        try:
            redis.zadd(KEY, dict.fromkeys(names, now))
            redis.zremrangebyscore(KEY, 0, now - FORGET_SECONDS)
            for name, when in redis.zrange(KEY, 0, -1, withscores=True):
                _here[name.decode()] = max(when, _here.get(name.decode(), 0))
        except (RedisError, OSError) as exc:
            logger.info("Redis does not say who was seen: %s", type(exc).__name__)
    for name, when in list(_here.items()):
        if when < now - FORGET_SECONDS:
            _here.pop(name, None)
    return {name: max(now - when, 0) for name, when in list(_here.items())}


def beat():
    """Let the other web hosts know of this one, for ever."""
    while True:
        note([WEB], get_redis_connection("default"))
        time.sleep(BEAT_SECONDS)
