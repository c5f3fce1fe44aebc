"""The addresses of the jobs app."""

from django.urls import path

from . import views

app_name = "jobs"
urlpatterns = [
    path("", views.index, name="index"),
    path("jobs/<uuid:pk>/", views.job_page, name="job"),
    path("jobs/<uuid:pk>.json", views.job_json, name="job-json"),
    path("healthz", views.healthz, name="healthz"),
    path("healthz/live", views.live, name="live"),
]
