"""The producer's addresses."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views import defaults
from django.views.generic import RedirectView

from jobs import probes, views
from jobs.api.endpoints import api
from jobs.api.problems import instead_of

urlpatterns = [
    path("healthz", probes.healthz, name="healthz"),
    path("healthz/live", probes.live, name="healthz-live"),
    path("healthz/ready", probes.ready, name="healthz-ready"),
    path("api/", RedirectView.as_view(pattern_name="api:openapi-view")),
    path("api/", api.urls),
    path("", include("jobs.urls")),
    path(settings.ADMIN_PATH, admin.site.urls),
]

handler400 = instead_of(defaults.bad_request, 400)
handler403 = instead_of(defaults.permission_denied, 403)
handler404 = instead_of(defaults.page_not_found, 404)
handler500 = instead_of(views.server_error, 500)
