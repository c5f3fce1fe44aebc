"""Problem documents (RFC 9457): the one form of every error under /api, whoever finds it."""

import logging
from functools import wraps
from http import HTTPStatus

from django.http import JsonResponse
from ninja.errors import HttpError, ValidationError

from jobs.database import UNAVAILABLE

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
PREFIX = "/api/"

# What a program has to tell apart although the status is the same. Without a type, the status says it all.
INVALID = "urn:quintet:problem:invalid"
KEY_REUSED = "urn:quintet:problem:key-reused"

UNAVAILABLE_SECONDS = 2  # after which it is worth to ask again
MOST_ERRORS = 10
CANCELLED = "57014"  # PostgreSQL's code for a query that took longer than it may
KEPT_HEADERS = ("Allow", "Retry-After")


class Problem(Exception):
    """Ends an operation with a problem document."""

    def __init__(self, status, detail, *, kind=None):
        """The HTTP status, a sentence for people, and a type for programs."""
        super().__init__(status, detail)
        self.status, self.detail, self.kind = status, detail, kind


def respond(status, detail="", *, kind=None, headers=None, **members):
    """The response. Members that are empty are left out."""
    phrase = HTTPStatus(status)
    document = {
        "type": kind or "about:blank",
        "title": phrase.phrase,
        "status": status,
        "detail": detail or phrase.description or phrase.phrase,
    }
    document |= {name: value for name, value in members.items() if value}
    return JsonResponse(document, status=status, content_type=MEDIA_TYPE, headers=headers)


def instead_of(page, status):
    """A handler for Django's errors: the problem document under /api, the page elsewhere."""

    @wraps(page)
    def handler(request, *args, **kwargs):
        return respond(status) if request.path_info.startswith(PREFIX) else page(request, *args, **kwargs)

    return handler


class ProblemMiddleware:
    """What is the same for every answer under /api. It comes early, so that it sees what the others refuse."""

    def __init__(self, get_response):
        """As Django wants it."""
        self.get_response = get_response

    def __call__(self, request):
        """HEAD is GET inside: ninja does not know it, and the server leaves the body out.

        An error that is no problem document yet, as ninja's for a wrong method, becomes one.
        """
        if not request.path_info.startswith(PREFIX):
            return self.get_response(request)
        method = request.method
        request.method = "GET" if method == "HEAD" else method
        response = self.get_response(request)
        request.method = method
        if response.status_code >= 400 and response.get("Content-Type") != MEDIA_TYPE:
            kept = {name: response[name] for name in KEPT_HEADERS if name in response}
            response = respond(response.status_code, headers=kept)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def handle(api):
    """Let an API answer with problem documents. An error that nobody expects goes on to Django, which logs it."""

    @api.exception_handler(Problem)
    def problem(request, exc):
        return respond(exc.status, exc.detail, kind=exc.kind)

    @api.exception_handler(HttpError)
    def refused(request, exc):
        return respond(exc.status_code, "The body is not valid JSON." if exc.status_code == 400 else exc.message)

    @api.exception_handler(ValidationError)
    def invalid(request, exc):
        errors = [describe(error) for error in exc.errors[:MOST_ERRORS]]
        if any(error["in"] == "path" for error in errors):
            return respond(404, "There is no such job.")
        return respond(422, "; ".join(sorted({error["detail"] for error in errors})), kind=INVALID, errors=errors)

    def unavailable(request, exc):
        logger.error("%s %s: PostgreSQL fails: %s", request.method, request.path, exc)
        if getattr(exc.__cause__, "sqlstate", None) == CANCELLED:
            detail = "The database takes too long over this."
        else:
            detail = "The database does not answer. With an idempotency key it is safe to send the request again."
        return respond(503, detail, headers={"Retry-After": UNAVAILABLE_SECONDS})

    for error in UNAVAILABLE:
        api.add_exception_handler(error, unavailable)


def describe(error):
    """One of ninja's errors: where it is, and what is wrong there."""
    place, *names = error["loc"]
    name = ".".join(str(part) for part in names if part not in ("job", "batch"))
    text = error["msg"].removeprefix("Value error, ")
    return {"in": place, "name": name, "detail": f"{name}: {text}" if name else text}
