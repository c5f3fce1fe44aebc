"""The form, the job's page and its JSON, with a worker and without."""

import json
import re
import time
import uuid

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from jobs.models import Job

pytestmark = pytest.mark.django_db


def post(client, first="a", second="b", **options):
    return client.post("/", {"first": first, "second": second}, **options)


def test_the_form_has_labels_and_a_token(client):
    html = client.get("/").content.decode()
    assert "<title>Quintet</title>" in html
    assert re.search(r'<html lang="\w+"', html)
    assert all(f'for="id_{name}"' in html and f'id="id_{name}"' in html for name in ("first", "second"))
    assert "csrfmiddlewaretoken" in html


def test_a_post_without_token_is_refused(client):
    client.handler.enforce_csrf_checks = True
    assert post(client).status_code == 403
    assert not Job.objects.exists()


@pytest.mark.usefixtures("worker")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "b"), ("x" * 200, "y" * 200), ("Grüße", "🐇 日本"), ("' OR 1=1 --", "%s{}%(a)s"), (" padded ", "b")],
)
def test_a_job_goes_round(client, settings, first, second):
    response = post(client, first, second)
    job = Job.objects.get()
    expected = f"{first.strip()} es {second.strip()}"
    assert (response.status_code, response.url) == (302, f"/jobs/{job.pk}/")
    assert (job.state, job.result, job.worker) == (Job.State.DONE, expected, "worker1")
    assert job.created_at <= job.finished_at <= timezone.now()
    page = client.get(response.url)
    assert page.status_code == 200
    assert page.context["job"].result == expected
    assert "joined by <strong>worker1</strong>" in page.content.decode()
    assert 'http-equiv="refresh"' not in page.content.decode()
    assert settings.RESULTS_FILE.read_text().split("\n")[0].split("\t")[1:] == [
        str(job.pk),
        first.strip(),
        second.strip(),
        expected,
    ]


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        ("", "b", "This field is required."),
        ("   ", "b", "This field is required."),
        ("a", "x" * 201, "at most 200 characters"),
        ("a\0", "b", "Null characters are not allowed."),
    ],
)
def test_an_invalid_form_is_shown_again(client, first, second, complaint):
    response = post(client, first, second)
    assert response.status_code == 422
    assert complaint in response.content.decode()
    assert not Job.objects.exists()


def test_a_post_without_fields_is_shown_again(client):
    assert client.post("/").status_code == 422


@pytest.mark.usefixtures("worker")
@pytest.mark.django_db(transaction=True)
def test_html_is_shown_as_text(client):
    response = post(client, "<script>alert(1)</script>", '"><b>', follow=True)
    index = client.get("/")
    for page in (response.content.decode(), index.content.decode()):
        assert "<script>" not in page
        assert "<b>" not in page
        assert "&lt;script&gt;alert(1)&lt;/script&gt; es &quot;&gt;&lt;b&gt;" in page


@pytest.mark.django_db(transaction=True)
def test_without_a_worker_the_wait_is_bounded_and_the_result_comes_later(client, settings, run_worker):
    settings.RESULT_WAIT_SECONDS = 0.3
    started = time.monotonic()
    response = post(client)
    assert 0.3 <= time.monotonic() - started < 1
    assert response.status_code == 302

    html = client.get(response.url).content.decode()
    assert "Waiting for a worker" in html
    assert '<meta http-equiv="refresh"' in html[: html.index("</head>")]
    assert client.get(response.url[:-1] + ".json").json()["state"] == "waiting"
    assert not settings.RESULTS_FILE.exists()

    with run_worker():
        deadline = time.monotonic() + 3
        while client.get(response.url[:-1] + ".json").json()["state"] == "waiting" and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "a es b" in client.get(response.url).content.decode()
    assert len(settings.RESULTS_FILE.read_text().splitlines()) == 1


@pytest.mark.usefixtures("worker")
@pytest.mark.django_db(transaction=True)
def test_a_task_that_fails_says_why(client, settings):
    html = post(client, "fail", follow=True).content.decode()
    job = Job.objects.get()
    assert (job.state, job.worker) == (Job.State.FAILED, "worker1")
    assert job.reason == "The task failed (ValueError: asked to fail)"
    assert "ValueError: asked to fail" in html
    assert not settings.RESULTS_FILE.exists()


@pytest.mark.usefixtures("worker")
@pytest.mark.django_db(transaction=True)
def test_json(client):
    job_url = post(client, "a", "b").url
    response = client.get(job_url[:-1] + ".json")
    job = Job.objects.get()
    assert response["Cache-Control"].startswith("max-age=0")
    shown = json.loads(response.content)
    times = {name: shown.pop(name) for name in ("created_at", "finished_at")}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value) for value in times.values())
    assert shown == {
        "id": str(job.pk),
        "state": "done",
        "first": "a",
        "second": "b",
        "result": "a es b",
        "reason": "",
        "worker": "worker1",
    }


@pytest.mark.parametrize("name", ["job", "job-json"])
def test_an_unknown_job_is_not_found(client, name):
    assert client.get(reverse(f"jobs:{name}", args=[uuid.uuid4()])).status_code == 404


@pytest.mark.parametrize("path", ["/jobs/1/", "/jobs/x.json", "/nothing"])
def test_an_unknown_address_is_not_found(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert "Quintet" in response.content.decode()


@pytest.mark.parametrize("path", ["/jobs/00000000-0000-4000-8000-000000000000/", "/healthz", "/healthz/live"])
def test_only_the_form_takes_posts(client, path):
    assert client.post(path).status_code == 405


def test_my_jobs_are_mine(client, settings):
    settings.RESULT_WAIT_SECONDS = 0
    for number in range(7):
        post(client, f"mine{number}")
    assert [job.first for job in client.get("/").context["mine"]] == ["mine6", "mine5", "mine4", "mine3", "mine2"]
    page = Client().get("/")
    assert not page.context["mine"]
    assert len(page.context["latest"]) == 5


def test_the_number_of_jobs_done_is_cached(client):
    Job.objects.create(first="a", second="b", state=Job.State.DONE, finished_at=timezone.now())
    assert "1 done so far" in client.get("/").content.decode()
    Job.objects.create(first="a", second="b", state=Job.State.DONE, finished_at=timezone.now())
    assert "1 done so far" in client.get("/").content.decode()
    cache.clear()
    assert "2 done so far" in client.get("/").content.decode()


def test_the_admin_shows_jobs_and_changes_none(admin_client):
    job = Job.objects.create(first="a", second="b")
    assert str(job.pk) in admin_client.get("/admin/jobs/job/").content.decode()
    assert admin_client.get("/admin/jobs/job/add/").status_code == 403
    assert admin_client.post(f"/admin/jobs/job/{job.pk}/change/", {"first": "c"}).status_code == 403
