"""A log line is one JSON object, and names the job wherever one is known."""

import io
import json
import logging
import sys

import pytest

from jobs import services
from producer import logs

JOB = "0b9f6c3e-8a55-4b7e-9d0c-2f4a8f6f1c11"


@pytest.fixture
def log():
    """What a record becomes: `log("message", extra=...)`."""

    def write(message, *args, name="jobs.x", level=logging.INFO, exc_info=None, extra=None):
        record = logging.getLogger(name).makeRecord(name, level, "f", 1, message, args, exc_info, extra=extra)
        text = logs.Formatter().format(record)
        assert "\n" not in text
        return json.loads(text)

    return write


@pytest.mark.django_db
def test_a_job_is_named_from_the_start():
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logs.Formatter())
    logging.getLogger("jobs").addHandler(handler)
    try:
        job, _ = services.accept("a", "b")
        services.end(job.pk, 1, "failed", reason="no")
        job.refresh_from_db()
        services.retry(job)
    finally:
        logging.getLogger("jobs").removeHandler(handler)
    lines = [json.loads(line) for line in handler.stream.getvalue().splitlines()]
    assert [(line["job"], line["message"]) for line in lines] == [
        (str(job.pk), "The job is accepted"),
        (str(job.pk), "The job is tried again: attempt 2"),
    ]


def test_a_line_is_one_object(log):
    line = log("Grüße\nfrom %s", "here")
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "INFO", "logger": "jobs.x", "message": "Grüße\nfrom here"}


def test_an_error_has_its_traceback(log):
    try:
        raise ValueError("no")
    except ValueError:
        assert "ValueError: no" in log("x", exc_info=sys.exc_info())["exc_info"]


def test_the_job_that_it_is_about(log):
    assert "job" not in log("x")
    with logs.about(JOB):
        assert log("x")["job"] == JOB
    assert "job" not in log("x")


@pytest.mark.parametrize(
    "message", [f"Task job_ended[{JOB}] received", f"Not Found: /jobs/{JOB}/", f"GET /jobs/{JOB}.json"]
)
def test_the_job_that_is_mentioned(log, message):
    assert log(message)["job"] == JOB


def test_what_is_said_explicitly_wins(log):
    assert log(f"[{JOB}]", extra={"job": "other"})["job"] == "other"


def test_arguments_and_requests_are_nobodys_business(log):
    assert log("x", extra={"data": {"args": "secret"}, "request": object()}).keys() == {
        *("time", "level", "logger", "message")
    }
