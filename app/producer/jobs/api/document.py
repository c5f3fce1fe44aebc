"""The OpenAPI document, complete: what ninja does not write about an operation, and the page that shows it."""

from http import HTTPStatus

from csp.constants import NONE, SELF
from csp.decorators import csp_replace
from ninja import NinjaAPI
from ninja.openapi.docs import Swagger
from ninja.openapi.schema import REF_TEMPLATE

from .limits import MOST_BYTES
from .problems import INVALID, KEY_REUSED, MEDIA_TYPE
from .schemas import EXAMPLE, WAITING, Problem

DESCRIPTION = """\
Two words go out to a worker, one sentence comes back.

A job that was accepted gets done, whatever fails in between. Send an `Idempotency-Key`, and you may send a request
again when its answer was lost: there will be one job. Every error is a problem document (RFC 9457).
"""

# What each status means here, and an example.
PROBLEMS = {
    400: ("The body is not JSON.", {"detail": "The body is not valid JSON."}),
    404: ("There is no such job.", {"detail": "There is no such job."}),
    409: (
        "The job's state does not allow it.",
        {"detail": "The job is done; only a job that is failed or parked can be retried."},
    ),
    413: ("The body is too large.", {"detail": f"A request may have {MOST_BYTES} bytes; this one has 20000."}),
    415: ("The body is not of the type application/json.", {"detail": "The body must be application/json."}),
    422: (
        f"The request is not valid (`{INVALID}`), or its key belongs to a job with other content (`{KEY_REUSED}`).",
        {
            "type": INVALID,
            "detail": "first: This field is required.",
            "errors": [{"in": "body", "name": "first", "detail": "first: This field is required."}],
        },
    ),
    429: ("Too many requests from one client.", {"detail": "Too many requests."}),
    500: (
        "An error in the server. It is in its log; the job may be accepted or not.",
        {"detail": HTTPStatus.INTERNAL_SERVER_ERROR.description},
    ),
    503: ("PostgreSQL does not answer, so that nothing can be accepted.", {"detail": "The database does not answer."}),
}
ALWAYS = (429, 500, 503)
PASSING = (429, 503)

JOBS = {200: ("The job.", EXAMPLE), 202: ("The job, which waits for a worker.", WAITING)}
HEADERS = {
    "Location": {
        "description": "The job's address.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
        "example": f"/api/jobs/{EXAMPLE['id']}",
    },
    "Retry-After": {
        "description": "Seconds after which it is worth to ask again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
        "example": 2,
    },
}


def answers(*problems, jobs=(), location=False):
    """What an operation answers, for ninja's `openapi_extra`: problems by status, and jobs in what they show."""
    responses = {status: {"$ref": f"#/components/responses/{_name(status)}"} for status in (*problems, *ALWAYS)}
    for status in jobs:
        meaning, example = JOBS[status]
        responses[status] = {"description": meaning, "content": {"application/json": {"example": example}}}
        if location:
            responses[status]["headers"] = {"Location": {"$ref": "#/components/headers/Location"}}
    return {"responses": responses}


class DocumentedAPI(NinjaAPI):
    """Ninja's API with our document."""

    def __init__(self, **options):
        """The rest is ninja's."""
        super().__init__(
            title="Quintet", version="1", description=DESCRIPTION, urls_namespace="api", docs=Docs(), **options
        )

    def get_openapi_schema(self, **options):
        """Ninja's document, with our components."""
        document = super().get_openapi_schema(**options)
        schema = Problem.model_json_schema(ref_template=REF_TEMPLATE)
        document["components"]["schemas"] |= schema.pop("$defs") | {"Problem": schema}
        document["components"] |= {
            "responses": {_name(status): _problem(status) for status in PROBLEMS},
            "headers": HEADERS,
        }
        document["servers"] = [{"url": "/"}]
        for path in document["paths"].values():
            for operation in path.values():
                for parameter in operation["parameters"]:
                    parameter["schema"] = _tidy(parameter["schema"])
        return document


class Docs(Swagger):
    """The document as a page, from our own static files."""

    template = "jobs/api.html"

    def __init__(self):
        """Nobody else is asked whether the document is valid."""
        super().__init__({"validatorUrl": None, "docExpansion": "list", "defaultModelsExpandDepth": 0})

    @csp_replace({"img-src": [SELF, "data:"], "form-action": [NONE]})
    def render_page(self, request, api, **kwargs):
        """Swagger has its icons in its style sheet, as data."""
        return super().render_page(request, api, **kwargs)


def _tidy(schema):
    # A default that only stands for absence is none, and what the parameter says need not be said again.
    schema = {key: value for rule in schema.pop("allOf", []) for key, value in rule.items()} | schema
    said = ("title", "description", "example")
    return {key: value for key, value in schema.items() if key not in said and (key, value) != ("default", None)}


def _name(status):
    return HTTPStatus(status).name.title().replace("_", "")


def _problem(status):
    meaning, example = PROBLEMS[status]
    example = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status} | example
    response = {
        "description": meaning,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}},
    }
    if status in PASSING:
        response["headers"] = {"Retry-After": {"$ref": "#/components/headers/Retry-After"}}
    return response
