"""The health of the tiers over HTTP, for load balancers, monitors and operators.

They are asked when something is broken, so that they touch nothing without need: no session, no database, no cache.
"""

import logging

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from . import health

logger = logging.getLogger(__name__)


@never_cache
@require_safe
def live(request):
    """Whether this process works; it asks nobody else."""
    return HttpResponse("ok", content_type="text/plain")


@never_cache
@require_safe
def ready(request):
    """Whether this host can accept jobs: 200 or 503. All it needs for that is PostgreSQL."""
    return _respond(health.public(health.ready()))


@never_cache
@require_safe
def healthz(request):
    """Whether every tier works: 200 or 503, and which one does not. Staff read the errors as well."""
    report = health.report()
    return _respond(report if _for_staff(request, report) else health.public(report))


def _respond(report):
    return JsonResponse(report, status=200 if report["status"] == "ok" else 503)


def _for_staff(request, report):
    # Who somebody is, PostgreSQL knows. Without it nobody is staff, and `manage.py health` tells the rest.
    if settings.SESSION_COOKIE_NAME not in request.COOKIES or report["tiers"]["postgresql"]["status"] != "ok":
        return False
    try:
        return request.user.is_active and request.user.is_staff
    except DatabaseError as exc:  # it went away just now
        logger.warning("Could not tell who asks for the health: %s", exc)
        return False
