"""What can be asked for. Each operation is a few lines around `jobs.services`."""

import logging

from django.db import connection, transaction
from django.http import HttpResponse
from django.urls import reverse
from ninja import Status

from jobs import results, services
from jobs.database import UNAVAILABLE
from jobs.models import Job
from producer import logs

from . import paging, problems, schemas
from .document import DocumentedAPI, answers
from .limits import BATCH, ClientThrottle, guard, patience

logger = logging.getLogger(__name__)

SEARCH_SECONDS = 3

throttle = ClientThrottle()
api = DocumentedAPI(throttle=[throttle])
api.add_decorator(guard, mode="view")
problems.handle(api)


@api.post(
    "/jobs",
    operation_id="createJob",
    summary="Create a job",
    response={200: schemas.Job, 202: schemas.Job},
    openapi_extra=answers(400, 413, 415, 422, jobs=(200, 202), location=True),
)
def create(request, response: HttpResponse, job: schemas.NewJob, key: schemas.Key, wait: schemas.Wait):
    """202: it is stored, and will be done. 200: it has ended already, because you waited or the key was known."""
    try:
        made, created = services.accept(**job.model_dump(), key=key)
    except services.KeyReused as exc:
        raise problems.Problem(422, str(exc), kind=problems.KEY_REUSED) from exc
    with logs.about(made):
        logger.info("Accepted" if created else "Known by its key")
    return show(response, look(made, wait))


@api.post(
    BATCH,
    operation_id="createJobs",
    summary="Create many jobs",
    response={200: schemas.Jobs, 202: schemas.Jobs},
    openapi_extra=answers(400, 413, 415, 422),
)
def create_many(request, batch: schemas.NewJobs, key: schemas.BatchKey):
    """All are accepted, or none: one transaction, and one request, for up to a hundred. Each counts as a request."""
    throttle.check(request, len(batch.jobs) - 1)
    try:
        made, _ = services.accept_all([job.model_dump() for job in batch.jobs], key)
    except services.KeyReused as exc:
        raise problems.Problem(422, str(exc), kind=problems.KEY_REUSED) from exc
    jobs = schemas.Jobs(items=[schemas.Job.model_validate(job) for job in made])
    return Status(202 if any(job.waiting for job in made) else 200, jobs)


@api.get(
    "/jobs", operation_id="listJobs", summary="List jobs", response={200: schemas.JobPage}, openapi_extra=answers(422)
)
def index(request, cursor: schemas.Cursor, limit: schemas.Limit, state: schemas.State, q: schemas.Text):
    """The newest first. A cursor keeps its place while new jobs come in. Results show as soon as they are stored."""
    jobs = Job.objects.all()
    if state:
        jobs = jobs.filter(state=state)
    if q:
        jobs = jobs.search(q)
    if cursor:
        jobs = paging.after(jobs, cursor)
    with transaction.atomic(), connection.cursor() as sql:
        sql.execute("SET LOCAL statement_timeout = %s", [SEARCH_SECONDS * 1000])
        found = list(jobs[: limit + 1])
    page = found[:limit]
    return schemas.JobPage(
        items=[schemas.Job.model_validate(job) for job in page],
        next=paging.cursor(page[-1]) if len(found) > limit else None,
    )


@api.get(
    "/jobs/{job_id}",
    operation_id="getJob",
    summary="Get a job",
    response={200: schemas.Job},
    openapi_extra=answers(404, 422, jobs=(200,)),
)
def get(request, job_id: schemas.JobId, wait: schemas.Wait):
    """With `wait`, the answer comes when the job ends, or when the time is over."""
    return schemas.Job.model_validate(look(find(job_id), wait))


@api.post(
    "/jobs/{job_id}/retry",
    operation_id="retryJob",
    summary="Retry a job",
    response={202: schemas.Job},
    openapi_extra=answers(404, 409, 413, 415, jobs=(202,), location=True),
)
def retry(request, response: HttpResponse, job_id: schemas.JobId):
    """A job that failed or was parked waits again, as its next attempt."""
    job = find(job_id)
    if not services.retry(job):
        raise problems.Problem(409, f"The job is {job.state}; only a job that is failed or parked can be retried.")
    return show(response, job)


def find(pk):
    """The job, or a problem."""
    job = Job.objects.filter(pk=pk).first()
    if job is None:
        raise problems.Problem(404, "There is no such job.")
    return job


def look(job, seconds):
    """The job with what can be seen of its result by now, or within these seconds if there is a thread to spare."""
    if job.waiting:
        try:
            with patience(seconds) as granted:
                results.live(job, granted)
        except UNAVAILABLE as exc:
            # PostgreSQL went away meanwhile. What it said before is true all the same: a job that is accepted, is.
            with logs.about(job):
                logger.warning("Could not wait for the job: %s", exc)
    return job


def show(response, job):
    """The job, and whether it is still under way."""
    response["Location"] = reverse("api:get", args=[job.pk])
    return Status(202 if job.waiting else 200, schemas.Job.model_validate(job))
