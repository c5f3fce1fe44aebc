"""The pages: the form, a job, lists of jobs, the status of the tiers."""

import logging
import sys
from datetime import UTC, datetime
from itertools import chain

from django.conf import settings
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django.views.defaults import server_error as default_server_error

from . import listing, results, services, timeline
from .api.limits import patience
from .database import UNAVAILABLE
from .forms import JobForm
from .models import Job, ParkedTask
from .status import picture
from .status.questions import COUNTED
from .status.watch import watch

logger = logging.getLogger(__name__)

SHOWN = 5
MINE = 50
FIELDS = (
    *("id", "state", "first", "second", "work_seconds", "delay_seconds", "attempt"),
    *("result", "reason", "worker", "created_at", "started_at", "finished_at"),
)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def index(request):
    """The form. A valid post is accepted, waits a moment for its result, and leads to the job's own page."""
    form = JobForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        done = Job.objects.filter(state=Job.State.DONE)[:COUNTED].count()
        context = {"form": form, "mine": _mine(request)[:SHOWN], "latest": Job.objects.all()[:SHOWN], "done": done}
        return render(request, "jobs/index.html", context, status=422 if form.is_bound else 200)
    try:
        job, _ = services.accept(**form.content(), key=form.idempotency_key())
    except UNAVAILABLE as exc:
        logger.error("No job is accepted: PostgreSQL fails: %s", type(exc).__name__)
        # With the same key: should it have been accepted after all, the next post leads to it.
        return render(request, "jobs/index.html", {"form": form, "unavailable": True}, status=503)
    known = [pk for pk in request.session.get("jobs", []) if pk != str(job.pk)]
    request.session["jobs"] = [str(job.pk), *known][:MINE]
    if job.waiting and job.delay_seconds + job.work_seconds < settings.RESULT_WAIT_SECONDS:
        with patience(settings.RESULT_WAIT_SECONDS) as seconds:
            results.live(job, seconds)
    return redirect(job)


@never_cache
@require_safe
def job_page(request, pk):
    """One job, for people."""
    job = _live(pk)
    return render(request, "jobs/job.html", {"job": job, "timeline": timeline.of(job)})


@never_cache
@require_safe
def job_json(request, pk):
    """One job, for programs; `stage` says more about the state than the API does."""
    job = _live(pk)
    return JsonResponse({field: getattr(job, field) for field in FIELDS} | {"stage": job.stage})


@require_POST
def retry(request, pk):
    """Try a job again, which everybody may who may see it."""
    job = get_object_or_404(Job, pk=pk)
    services.retry(job)
    return redirect(job)


@never_cache
@require_safe
def mine(request):
    """The jobs that were sent from this browser."""
    return render(request, "jobs/jobs.html", {"title": "My jobs", "mine": True, "most": MINE, "jobs": _mine(request)})


@never_cache
@require_safe
def every_job(request):
    """All jobs, found by text and state, in pages."""
    context = {"title": "All jobs", "states": Job.State.choices}
    return render(request, "jobs/jobs.html", context | listing.find(request.GET))


@never_cache
@require_safe
def parked(request):
    """Dead letters that are no jobs. What is in them is for staff."""
    tasks, older = listing.parked(request.GET.get("older", ""))
    context = {"tasks": tasks, "older": older, "newer": "older" in request.GET, "staff": request.user.is_staff}
    return render(request, "jobs/parked.html", context)


@require_POST
def retry_parked(request, pk):
    """Send a dead letter again: staff only, since nobody here knows what it does."""
    if not request.user.is_staff:
        raise PermissionDenied
    services.retry_parked(get_object_or_404(ParkedTask, pk=pk))
    return redirect("jobs:parked")


@never_cache
@require_safe
def results_text(request):
    """Every result there is, a line each, the oldest first; with `?since=` those from a time on (ISO 8601)."""
    try:
        since = datetime.fromisoformat(request.GET["since"]) if "since" in request.GET else None
    except ValueError:
        raise BadRequest("since is no time") from None
    lines = results.stream(since if since is None or since.tzinfo else since.replace(tzinfo=UTC))
    first = next(lines, b"")  # a PostgreSQL that is away shows now, while it can still be said
    return StreamingHttpResponse(chain([first], lines), content_type="text/plain; charset=utf-8")


@never_cache
@require_safe
def status(request):
    """The tiers, in a picture and in words. Asks for no session: this page must work without PostgreSQL."""
    return render(request, "jobs/status.html", _status())


@never_cache
@require_safe
def status_json(request):
    """The same as data, with what the page shows of it as HTML."""
    context = _status()
    return JsonResponse(context["status"] | {"html": render_to_string("jobs/status_live.html", context)})


def server_error(request):
    """The last resort. What PostgreSQL broke outside of a view, such as keeping the session, is no mistake of ours."""
    if isinstance(sys.exc_info()[1], UNAVAILABLE):
        return unavailable(request)
    return default_server_error(request)


def unavailable(request):
    """PostgreSQL does not answer. A page that was only looked at tries again by itself."""
    context = {"retry": request.method in ("GET", "HEAD")}
    response = render(request, "503.html", context, status=503)
    response["Retry-After"], response["Cache-Control"] = "5", "no-store"
    return response


def _live(pk):
    """The job as it is, and its `stage`: its state, or how far one got that is not at home yet."""
    job = get_object_or_404(Job, pk=pk)
    waited = job.waiting
    if waited:
        results.live(job)
    job.stage = job.state
    if job.waiting:
        late = "delayed" if job.due_at > timezone.now() else "sent"
        job.stage = "kept" if job.outbox.exists() else late
    elif waited and job.state == Job.State.DONE:
        job.stage = "shown"  # by Redis; the row will know more
    return job


def _mine(request):
    order = request.session.get("jobs", [])
    jobs = Job.objects.in_bulk(order)
    found = {str(pk): job for pk, job in jobs.items()}
    return [found[pk] for pk in order if pk in found]


def _status():
    seen = watch.current()
    return {
        "status": seen,
        "wide": picture.wide(seen),
        "tall": picture.tall(seen),
        "plot": picture.plot(seen["roundtrips"]),
    }
