"""The addresses of the jobs app."""

from django.urls import path

from . import views

app_name = "jobs"
urlpatterns = [
    path("", views.index, name="index"),
    path("jobs/", views.every_job, name="all"),
    path("jobs/mine/", views.mine, name="mine"),
    path("jobs/parked/", views.parked, name="parked"),
    path("jobs/parked/<int:pk>/retry/", views.retry_parked, name="retry-parked"),
    path("jobs/<uuid:pk>/", views.job_page, name="job"),
    path("jobs/<uuid:pk>/retry/", views.retry, name="retry"),
    path("jobs/<uuid:pk>.json", views.job_json, name="job-json"),
    path("results.txt", views.results_text, name="results"),
    path("status/", views.status, name="status"),
    path("status.json", views.status_json, name="status-json"),
]
