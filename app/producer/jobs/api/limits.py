"""What one client may take: the size of a request, the number of requests, and the time of our threads."""

import ipaddress
import threading
import time
from contextlib import contextmanager
from functools import wraps

from django.conf import settings
from django_redis import get_redis_connection
from ninja.errors import Throttled
from ninja.throttling import BaseThrottle
from redis.exceptions import RedisError

from .problems import respond

MOST_BYTES = 16 * 1024
BATCH = "/jobs/batch"
MOST_BATCH_BYTES = 256 * 1024
WINDOW_SECONDS = 60
REDIS_REST_SECONDS = 5


def guard(run):
    """Refuse a body that is too large, and one that is no JSON, before it is read. A GET's is not read at all."""

    @wraps(run)
    def guarded(request, *args, **kwargs):
        length = int(request.META.get("CONTENT_LENGTH") or 0) if request.method == "POST" else 0
        most = MOST_BATCH_BYTES if request.path_info.endswith(BATCH) else MOST_BYTES
        if length > most:
            return respond(413, f"A request may have {most} bytes; this one has {length}.")
        if length and request.content_type != "application/json":
            return respond(415, "The body must be application/json.")
        return run(request, *args, **kwargs)

    return guarded


class ClientThrottle(BaseThrottle):
    """So many requests a minute for each client, counted in Redis by all web hosts together.

    Without Redis nobody is counted, and after an error it is left alone for a while: the limit protects the service, it
    must not slow it down.
    """

    silent_until = 0.0

    def allow_request(self, request, weight=1):
        """Count the request; false if it is one too many."""
        limit = settings.API_REQUESTS_PER_MINUTE
        return not limit or self.count(client(request), weight) <= limit

    def check(self, request, weight):
        """Count a request that weighs more than others once more. Throttled: that was too much."""
        if weight and not self.allow_request(request, weight):
            raise Throttled(wait=self.wait())

    def wait(self):
        """Until the next window begins, in seconds."""
        return WINDOW_SECONDS - time.time() % WINDOW_SECONDS

    def count(self, name, weight=1):
        """How many requests there were in this window, with this one; 0 if nobody knows."""
        if time.monotonic() < self.silent_until:
            return 0
        key = f"rate:{int(time.time() // WINDOW_SECONDS)}:{name}"
        try:
            pipeline = get_redis_connection("default").pipeline(transaction=False)
            pipeline.incr(key, weight)
            pipeline.expire(key, WINDOW_SECONDS)
            return pipeline.execute()[0]
        except (RedisError, OSError):
            self.silent_until = time.monotonic() + REDIS_REST_SECONDS
            return 0


def client(request):
    """Who asks: an IPv4 address, or the /64 of an IPv6 address, since one client has all of that.

    Gunicorn's unix socket has no addresses, and only our nginx may open it: what that says about the client is true.
    What a request over TCP says about itself is not.
    """
    text = request.META.get("REMOTE_ADDR") or request.headers.get("X-Real-IP", "")
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "unknown"
    if address.version == 6:
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address.packed, 64), strict=False))
    return str(address)


waiters = threading.BoundedSemaphore(settings.API_WAITERS)


@contextmanager
def patience(seconds):
    """How long this request may wait: what it asks for, or not at all when too many threads of this process wait."""
    granted = seconds > 0 and waiters.acquire(blocking=False)
    try:
        yield seconds if granted else 0
    finally:
        if granted:
            waiters.release()
