"""The pages: the form, a job, and the health of the tiers."""

import logging

from django.conf import settings
from django.core.cache import cache
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from . import broker, health, results
from .forms import JobForm
from .models import Job

logger = logging.getLogger(__name__)

SHOWN = 5
COUNT_SECONDS = 10


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def index(request):
    """The form. A valid post becomes a row, then a task, and leads to the job's own page."""
    form = JobForm(request.POST if request.method == "POST" else None, label_suffix="")
    if not form.is_valid():
        context = {"form": form, "mine": _mine(request), "latest": Job.objects.all()[:SHOWN], "done": _done()}
        return render(request, "jobs/index.html", context, status=422 if form.is_bound else 200)

    job = form.save()  # committed before its task is sent: no worker can be faster than the row
    request.session["jobs"] = [str(job.pk), *request.session.get("jobs", [])][:SHOWN]
    try:
        broker.publish("adding_task", [job.first, job.second], task_id=str(job.pk))
    except broker.PublishError as exc:
        job.finish(Job.State.FAILED, reason=str(exc))
        return render(request, "jobs/job.html", {"job": job}, status=503)
    _look(job, settings.RESULT_WAIT_SECONDS)
    return redirect(job)


@never_cache
@require_safe
def job_page(request, pk):
    """One job, for people."""
    return render(request, "jobs/job.html", {"job": _look(get_object_or_404(Job, pk=pk))})


@never_cache
@require_safe
def job_json(request, pk):
    """One job, for programs."""
    job = _look(get_object_or_404(Job, pk=pk))
    fields = ("id", "state", "first", "second", "result", "reason", "worker", "created_at", "finished_at")
    return JsonResponse({field: getattr(job, field) for field in fields})


@never_cache
@require_safe
def healthz(request):
    """Whether every tier works: 200 or 503, and which one does not."""
    report = health.report()
    return JsonResponse(report, status=200 if report["status"] == "ok" else 503)


@never_cache
@require_safe
def live(request):
    """Whether this process works; it asks nobody else."""
    return HttpResponse("ok", content_type="text/plain")


def _look(job, seconds=0.0):
    try:
        results.collect(job, seconds)
    except results.UNREACHABLE as exc:
        logger.warning("Could not ask for the result of %s: %s: %s", job.pk, type(exc).__name__, exc)
    return job


def _mine(request):
    return Job.objects.filter(pk__in=request.session.get("jobs", []))


def _done():
    count = cache.get("jobs_done")
    if count is None:
        count = Job.objects.filter(state=Job.State.DONE).count()
        cache.set("jobs_done", count, COUNT_SECONDS)
    return count
