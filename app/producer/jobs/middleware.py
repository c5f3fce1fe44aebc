"""What a request gets when PostgreSQL does not answer."""

import logging

from . import views
from .database import UNAVAILABLE

logger = logging.getLogger(__name__)


class UnavailableMiddleware:
    """Answer 503, not 500, and log a line, not a page: nothing in our code is wrong."""

    def __init__(self, get_response):
        """As Django wants it."""
        self.get_response = get_response

    def __call__(self, request):
        """Nothing to do unless a view raises."""
        return self.get_response(request)

    def process_exception(self, request, exception):
        """A view raised."""
        if not isinstance(exception, UNAVAILABLE):
            return None
        logger.error("%s %s: PostgreSQL fails: %s", request.method, request.path, type(exception).__name__)
        return views.unavailable(request)
