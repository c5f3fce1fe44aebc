"""What goes in and what comes out."""

import uuid
from datetime import datetime
from typing import Annotated

from ninja import Header, Path, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from jobs import models
from jobs.models import MOST_DELAY_SECONDS, MOST_WORK_SECONDS

from .paging import PATTERN

MOST_WAIT_SECONDS = 10
MOST_JOBS = 100
MOST_LETTERS = 200

# No NUL, and something that is no white space. That is spelt out, since each language has its own idea of \s.
WORD = r"^[^\x00]*[^\x00\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\x00]*$"

EXAMPLE = {
    "id": "3f0c2f5e-8a55-4b7e-9d0c-2f4a8f6f1c11",
    "state": "done",
    "first": "salt",
    "second": "pepper",
    "work_seconds": 0,
    "delay_seconds": 0,
    "attempt": 1,
    "result": "salt es pepper",
    "reason": None,
    "worker": "worker1",
    "created_at": "2026-03-01T12:00:00.000Z",
    "started_at": "2026-03-01T12:00:00.021Z",
    "finished_at": "2026-03-01T12:00:00.024Z",
}
WAITING = EXAMPLE | {"state": "waiting", "result": None, "worker": None, "started_at": None, "finished_at": None}


def word(text):
    """The same rules and the same words as the form's."""
    text = text.strip()
    if not text:
        raise ValueError("This field is required.")
    if "\0" in text:
        raise ValueError("Null characters are not allowed.")
    return text


def number(value):
    """A JSON number; 3.0 is one as good as 3, but "3" is none."""
    if isinstance(value, str | bool):
        raise ValueError("Input should be a valid integer.")
    return value


Word = Annotated[
    str,
    Field(
        min_length=1,
        max_length=models.Job._meta.get_field("first").max_length,
        json_schema_extra={"pattern": WORD},  # for the document; `word` says it in words
    ),
    AfterValidator(word),
]
Seconds = Annotated[int, BeforeValidator(number)]
TextOrNull = Annotated[str | None, AfterValidator(lambda text: text or None)]


class NewJob(BaseModel):
    """Two words to join."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"first": "salt", "second": "pepper"}]},
    )

    first: Word = Field(description="White space around it is dropped.")
    second: Word = Field(description="White space around it is dropped.")
    work_seconds: Seconds = Field(0, ge=0, le=MOST_WORK_SECONDS, description="How long the worker takes over it.")
    delay_seconds: Seconds = Field(
        0, ge=0, le=MOST_DELAY_SECONDS, description="How long it waits before a worker gets it."
    )


class NewJobs(BaseModel):
    """Many jobs at once."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"jobs": [{"first": "salt", "second": "pepper"}]}]},
    )

    jobs: list[NewJob] = Field(min_length=1, max_length=MOST_JOBS)


class Job(BaseModel):
    """A job, as far as it came."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    id: uuid.UUID
    state: models.Job.State = Field(description="A job waits until it ends: done, failed, or parked by RabbitMQ.")
    first: str
    second: str
    work_seconds: int
    delay_seconds: int
    attempt: int = Field(description="1, and one more with each retry.")
    result: TextOrNull = Field(description="The two words, joined.")
    reason: TextOrNull = Field(description="Why it has no result.")
    worker: TextOrNull = Field(description="The host that did it.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Jobs(BaseModel):
    """Jobs in the order of the request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [EXAMPLE]}]})

    items: list[Job]


class JobPage(BaseModel):
    """A part of the list of jobs, the newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"items": [EXAMPLE], "next": None}]})

    items: list[Job]
    next: str | None = Field(description="The cursor of what follows; null at the end.")


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    place: str = Field(alias="in", description="body, query or header")
    name: str = Field(description="Name of the field or parameter; empty for the body as a whole.")
    detail: str


class Problem(BaseModel):
    """A problem document, see RFC 9457."""

    type: str = Field(
        json_schema_extra={"format": "uri"},
        description="`about:blank`, or `urn:quintet:problem:...` where the status does not say enough.",
    )
    title: str = Field(description="What the status means.")
    status: int
    detail: str = Field(description="A sentence for people.")
    errors: list[FieldError] = Field(default=[], description="What is wrong with the request, where that is known.")


JobId = Annotated[uuid.UUID, Path(description="The job's id.", example=EXAMPLE["id"])]
Wait = Annotated[
    float,
    Query(
        0,
        ge=0,
        le=MOST_WAIT_SECONDS,
        description="Wait so many seconds for the job to end. The server may answer sooner when it is busy.",
    ),
]


def _key(most):
    return Header(
        None,
        alias="Idempotency-Key",
        min_length=1,
        max_length=most,
        pattern=r"^[\x21-\x7e]+$",
        description="Visible ASCII characters, others for each new request. The same request with the same key gives "
        "the same job.",
        example="7d1c7a52-0b6d-4f3c-b5b7-2f8c1c9a3f61",
    )


Key = Annotated[str, _key(models.Job._meta.get_field("idempotency_key").max_length)]
BatchKey = Annotated[str, _key(200)]
Cursor = Annotated[str, Query(None, pattern=PATTERN, description="Where to go on: `next` of the part before.")]
Limit = Annotated[int, Query(20, ge=1, le=MOST_JOBS, description="How many jobs at most.")]
State = Annotated[models.Job.State, Query(None, description="Only jobs in this state.")]
Text = Annotated[
    str,
    Query(
        None,
        max_length=MOST_LETTERS,
        pattern=r"^[^\x00]*$",
        description="Only jobs with this in one of their words, or at the start of their id.",
    ),
]
