"""The API: what it accepts, what it answers, and what it says when it cannot."""

import re
import runpy
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
from django.db import connection, connections, transaction
from django.test import Client
from django_redis import get_redis_connection
from werkzeug.test import Client as WebServer

from jobs import services
from jobs.api import endpoints, limits
from jobs.api.problems import INVALID, KEY_REUSED, MEDIA_TYPE
from jobs.forms import JobForm
from jobs.models import Job, Outbox
from producer.wsgi import application

from .conftest import REFUSED, until

pytestmark = pytest.mark.django_db(transaction=True)

JOBS = "/api/jobs"
PROJECT = Path(__file__).resolve().parent.parent


class Api(Client):
    """A client that compares each answer with the OpenAPI document."""

    def __init__(self):
        super().__init__(enforce_csrf_checks=True, raise_request_exception=False)
        self.document = self.get("/api/openapi.json").json()

    def request(self, **request):
        response = super().request(**request)
        document = getattr(self, "document", None)
        path = re.sub(r"/jobs/[^/]+", "/jobs/{job_id}", request["PATH_INFO"])
        operation = document and document["paths"].get(path, {}).get(request["REQUEST_METHOD"].lower())
        if operation and "HTTP_HOST" not in request:
            declared = operation["responses"][str(response.status_code)]
            while "$ref" in declared:
                declared = document["components"]["responses"][declared["$ref"].rpartition("/")[2]]
            schema = declared["content"][response["Content-Type"].partition(";")[0]]["schema"]
            jsonschema.validate(response.json(), schema | {"components": document["components"]})
            assert set(declared.get("headers", {})) <= set(response.headers)
        return response

    def create(self, first="a", second="b", *, key=None, wait=None, **more):
        headers = {} if key is None else {"Idempotency-Key": key}
        query = "" if wait is None else f"?wait={wait}"
        fields = {"first": first, "second": second} | more
        return self.post(JOBS + query, fields, content_type="application/json", headers=headers)

    def retry(self, job):
        return self.post(f"{JOBS}/{job.pk}/retry", content_type="application/json")


@pytest.fixture
def api(settings):
    settings.API_REQUESTS_PER_MINUTE = 0
    return Api()


def a_job(**values):
    """A job as it is after its end, whatever that was."""
    if values.get("state", "waiting") != Job.State.WAITING:
        values = {"finished_at": datetime.now(UTC), "reason": "broken"} | values
    return Job.objects.create(**({"first": "a", "second": "b"} | values))


def end_soon(state, **values):
    """End the one job there will be, a moment after it is there."""

    def end():
        job = until(Job.objects.first)
        time.sleep(0.2)
        services.end(job.pk, 1, state, worker="worker1", **values)
        connection.close()

    thread = threading.Thread(target=end)
    thread.start()
    return thread


def together(count, do):
    """What `do` returns when so many threads call it at the same time."""
    start = threading.Barrier(count)

    def run(number):
        start.wait()
        try:
            return do(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# -- Accepting --------------------------------------------------------------------------------------------------------


def test_a_job_is_accepted(api):
    response = api.create(" salt ", "pépper", work_seconds=2, delay_seconds=60)
    job = Job.objects.get()
    assert response.status_code == 202
    assert response["Location"] == f"/api/jobs/{job.pk}"
    created_at = response.json()["created_at"]
    assert abs(datetime.fromisoformat(created_at) - datetime.now(UTC)) < timedelta(seconds=5)
    assert response.json() == {
        "id": str(job.pk),
        "state": "waiting",
        "first": "salt",
        "second": "pépper",
        "work_seconds": 2,
        "delay_seconds": 60,
        "attempt": 1,
        "result": None,
        "reason": None,
        "worker": None,
        "created_at": created_at,
        "started_at": None,
        "finished_at": None,
    }
    assert api.get(response["Location"]).json() == response.json()
    assert Outbox.objects.get().task_id == str(job.pk)


def test_nobody_has_to_be_known(api):
    response = api.create()
    assert response.status_code == 202
    assert not response.cookies
    assert "Cookie" not in response.get("Vary", "")
    assert response["Cache-Control"] == "no-store"


def test_neither_rabbitmq_nor_redis_is_needed(api, settings, use_broker, use_redis):
    settings.API_REQUESTS_PER_MINUTE = 1
    use_broker(f"amqp://{REFUSED}")
    use_redis(REFUSED)
    started = time.monotonic()
    assert [api.create().status_code for _ in range(3)] == [202] * 3
    assert time.monotonic() - started < 2
    assert Outbox.objects.count() == 3


# -- Waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "values"),
    [("done", {"result": "a es b"}), ("failed", {"reason": "It broke."}), ("parked", {"reason": "Its worker died."})],
)
def test_whoever_waits_sees_the_end(api, state, values):
    ending = end_soon(state, **values)
    started = time.monotonic()
    response = api.create(wait=5)
    assert time.monotonic() - started < 2
    ending.join()
    assert response.status_code == 200
    assert "Location" in response
    shown = {name: response.json()[name] for name in ("state", "worker", "result", "reason")}
    assert shown == {"state": state, "worker": "worker1", "result": None, "reason": None} | values


@pytest.mark.usefixtures("relay", "service")
def test_a_result_shows_as_soon_as_redis_has_it_and_is_not_written(api, messages):
    response = api.create("a", "b", wait=10)
    assert (response.status_code, response.json()["result"], response.json()["worker"]) == (200, "a es b", "worker1")
    assert Job.objects.get().state == "waiting"  # nobody has brought the result home
    assert len(messages("results", 1)) == 1


def test_the_wait_is_bounded(api):
    started = time.monotonic()
    response = api.create(wait=0.4)
    assert 0.4 <= time.monotonic() - started < 2
    assert (response.status_code, response.json()["state"]) == (202, "waiting")


@pytest.mark.parametrize("wait", ["-1", "10.1", "nan", "inf", "x", ""])
def test_nobody_waits_for_ever(api, wait):
    response = api.create(wait=wait)
    assert response.status_code == 422
    assert [error["name"] for error in response.json()["errors"]] == ["wait"]
    assert not Job.objects.exists()


def test_only_so_many_threads_wait(api, monkeypatch):
    monkeypatch.setattr(limits, "waiters", threading.BoundedSemaphore(2))
    job = a_job()

    def ask(number):
        started = time.monotonic()
        assert api.get(f"{JOBS}/{job.pk}?wait=0.6").json()["state"] == "waiting"
        return time.monotonic() - started >= 0.6

    for _ in range(2):  # and who has waited makes place
        assert Counter(together(5, ask)) == {True: 2, False: 3}


def test_a_request_that_breaks_off_makes_place(api, monkeypatch):
    monkeypatch.setattr(limits, "waiters", threading.BoundedSemaphore(1))
    with suppress(RuntimeError), limits.patience(1) as seconds:
        assert seconds == 1
        raise RuntimeError
    with limits.patience(1) as seconds, limits.patience(1) as none:
        assert (seconds, none) == (1, 0)


def test_some_threads_never_wait(settings):
    gunicorn = runpy.run_path(str(PROJECT / "gunicorn.conf.py"))
    assert 1 <= settings.API_WAITERS < gunicorn["threads"]


# -- The same request again -------------------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_job(api):
    one, other = api.create(key="k"), api.create(" a", key="k")
    assert (one.status_code, other.status_code) == (202, 202)
    assert one.json() == other.json()
    services.end(one.json()["id"], 1, "done", result="a es b")
    again = api.create(key="k")
    assert (again.status_code, again.json()["result"]) == (200, "a es b")
    assert again["Location"] == one["Location"]
    assert Outbox.objects.count() == Job.objects.count() == 1


def test_other_keys_and_none_give_other_jobs(api):
    ids = {api.create(key=key).json()["id"] for key in ("k", "K", "k2", None, None)}
    assert len(ids) == 5


@pytest.mark.parametrize("change", [{"first": "x"}, {"second": "x"}, {"work_seconds": 1}, {"delay_seconds": 1}])
def test_a_key_belongs_to_its_content(api, change):
    api.create(key="k")
    response = api.create(**{"key": "k"} | change)
    assert response.status_code == 422
    assert response.json()["type"] == KEY_REUSED
    assert Outbox.objects.count() == Job.objects.count() == 1


def many(api, *words, key=None, **more):
    """Post a batch of jobs."""
    headers = {"Idempotency-Key": key} if key else {}
    jobs = [{"first": first, "second": "b"} | more for first in words]
    return api.post("/api/jobs/batch", {"jobs": jobs}, content_type="application/json", headers=headers)


def test_many_jobs_are_accepted_at_once(api):
    answer = many(api, "a", "b", "c", delay_seconds=9)
    assert answer.status_code == 202
    assert [(job["first"], job["state"], job["delay_seconds"]) for job in answer.json()["items"]] == [
        ("a", "waiting", 9),
        ("b", "waiting", 9),
        ("c", "waiting", 9),
    ]
    assert {job["id"] for job in answer.json()["items"]} == {str(job.pk) for job in Job.objects.all()}
    assert Outbox.objects.count() == 3


def test_of_many_jobs_all_are_accepted_or_none(api):
    answer = many(api, "a", "", "c")
    assert answer.status_code == 422
    assert [error["name"] for error in answer.json()["errors"]] == ["jobs.1.first"]
    assert not Job.objects.exists()


@pytest.mark.parametrize(("count", "status"), [(0, 422), (1, 202), (100, 202), (101, 422)])
def test_how_many_at_once(api, count, status):
    assert many(api, *"a" * count).status_code == status
    assert Job.objects.count() == (count if status == 202 else 0)


def test_the_longest_hundred_jobs_fit_into_a_request(api):
    assert many(api, *["\N{SNOWMAN}" * 200] * 100).status_code == 202
    answer = many(api, *["x" * 3000] * 100)
    assert answer.status_code == 413


def test_one_key_for_many_jobs(api):
    first = many(api, "a", "b", key="key")
    again = many(api, "a", "b", key="key")
    assert again.status_code == 202
    assert again.json() == first.json()
    assert many(api, "a", key="key").json()["type"] == "urn:quintet:problem:key-reused"
    for job in Job.objects.all():
        services.end(job.pk, 1, "done", result="x")
    assert many(api, "a", "b", key="key").status_code == 200
    assert Job.objects.count() == 2


def test_twenty_at_once_with_one_key_make_one_job(api):
    responses = together(20, lambda number: api.create(key="k"))
    assert {response.status_code for response in responses} == {202}
    assert len({response.json()["id"] for response in responses}) == 1
    assert Outbox.objects.count() == Job.objects.count() == 1


@pytest.mark.parametrize("key", ["", " ", "a b", "a\tb", "x" * 256, "schlüssel", "\x7f"])
def test_a_key_is_visible_ascii(api, key):
    response = api.create(key=key)
    assert response.status_code == 422
    assert [(error["in"], error["name"]) for error in response.json()["errors"]] == [("header", "Idempotency-Key")]


def test_a_key_may_be_long(api):
    assert api.create(key="~" * 255).status_code == 202


# -- What is not accepted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["", " ", "\t\n", "\x1c\x85\xa0", "\u2003", "a\0", "\0", "x" * 201])
def test_words_are_refused_as_by_the_form_and_with_its_words(api, word):
    response = api.create(word)
    assert response.status_code == 422
    assert response.json()["type"] == INVALID
    [error] = response.json()["errors"]
    assert (error["in"], error["name"]) == ("body", "first")
    [complaint, *_] = JobForm({"first": word, "second": "b"}).errors["first"]
    if len(word) <= 200 and word:
        assert error["detail"] == f"first: {complaint}"
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("{}", ["first", "second"]),
        ("", [""]),
        ("null", [""]),
        ("[]", [""]),
        ('"first"', [""]),
        ('{"first": "a", "second": null}', ["second"]),
        ('{"first": "a", "second": 5}', ["second"]),
        ('{"first": "a", "second": ["b"]}', ["second"]),
        (r'{"first": "a", "second": "\ud800"}', ["second"]),
        ('{"first": "a", "second": "b", "third": "c"}', ["third"]),
        ('{"first": "a", "second": "b", "work_seconds": 31}', ["work_seconds"]),
        ('{"first": "a", "second": "b", "work_seconds": -1}', ["work_seconds"]),
        ('{"first": "a", "second": "b", "work_seconds": "3"}', ["work_seconds"]),
        ('{"first": "a", "second": "b", "work_seconds": true}', ["work_seconds"]),
        ('{"first": "a", "second": "b", "work_seconds": 1.5}', ["work_seconds"]),
        ('{"first": "a", "second": "b", "work_seconds": NaN}', ["work_seconds"]),
        ('{"first": "a", "second": "b", "delay_seconds": 3601}', ["delay_seconds"]),
        ('{"first": "a", "second": "b", "delay_seconds": 1e99}', ["delay_seconds"]),
    ],
)
def test_a_body_is_refused_by_name(api, body, names):
    response = api.post(JOBS, body, content_type="application/json")
    assert response.status_code == 422
    assert response.json()["type"] == INVALID
    assert [error["name"] for error in response.json()["errors"]] == names
    assert not Job.objects.exists()


def test_the_limits_themselves_are_accepted(api):
    assert api.create("x" * 200, " \u2003b", work_seconds=30, delay_seconds=3600.0).status_code == 202
    assert Job.objects.get().second == "b"


def test_many_mistakes_make_no_long_answer(api):
    body = {"first": "a", "second": "b"} | dict.fromkeys((f"x{number}" for number in range(1000)), 0)
    response = api.post(JOBS, body, content_type="application/json")
    assert response.status_code == 422
    assert len(response.json()["errors"]) == 10


# -- Problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "path", "options"),
    [
        (404, "GET", "/api/nothing", {}),
        (404, "POST", "/api/nothing", {"data": "x", "content_type": "text/plain"}),
        (404, "GET", "/api/jobs/", {}),
        (404, "GET", "/api/jobs/x", {}),
        (404, "GET", "/api/jobs/%00", {}),
        (404, "GET", f"/api/jobs/{uuid.UUID(int=0)}", {}),
        (404, "POST", f"/api/jobs/{uuid.UUID(int=0)}/retry", {}),
        (405, "PUT", JOBS, {}),
        (405, "DELETE", f"/api/jobs/{uuid.UUID(int=0)}", {}),
        (405, "OPTIONS", JOBS, {}),
        (405, "GET", f"/api/jobs/{uuid.UUID(int=0)}/retry", {}),
        (400, "POST", JOBS, {"data": "{", "content_type": "application/json"}),
        (400, "POST", JOBS, {"data": "[" * 16_000, "content_type": "application/json"}),
        (400, "POST", JOBS, {"data": b'{"first": "\xff"}'[:-1], "content_type": "application/json"}),
        (400, "GET", JOBS, {"headers": {"Host": "evil.example"}}),
        (413, "POST", JOBS, {"data": " " * 16_385, "content_type": "application/json"}),
        (415, "POST", JOBS, {"data": '{"first": "a", "second": "b"}', "content_type": "text/plain"}),
        (415, "POST", JOBS, {"data": "first=a&second=b", "content_type": "application/x-www-form-urlencoded"}),
        (422, "GET", "/api/jobs?limit=0", {}),
        (422, "GET", "/api/jobs?limit=101", {}),
        (422, "GET", "/api/jobs?state=asleep", {}),
        (422, "GET", "/api/jobs?q=%00", {}),
        (422, "GET", f"/api/jobs?q={'x' * 201}", {}),
        (422, "GET", "/api/jobs?cursor=x", {}),
        (422, "GET", f"/api/jobs?cursor={'é' * 32}", {}),
    ],
)
def test_every_error_is_a_problem_document(api, status, method, path, options):
    response = api.generic(method, path, **options)
    assert response.status_code == status
    assert response["Content-Type"] == MEDIA_TYPE
    assert response["Cache-Control"] == "no-store"
    assert not response.templates  # no page is made first, which might fail in turn
    assert response["X-Content-Type-Options"] == "nosniff" or status == 400
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"] == (INVALID if status == 422 else "about:blank")
    if status == 405:
        assert set(response["Allow"].split(", ")) <= {"GET", "POST"}


def test_outside_of_the_api_errors_are_pages(client):
    response = client.get("/nothing")
    assert (response.status_code, response["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert client.get("/apis").status_code == 404
    assert client.get("/apis")["Content-Type"] == "text/html; charset=utf-8"


def test_a_mistake_of_ours_is_a_problem_without_details(api, monkeypatch, caplog):
    def broken(*args, **options):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(services, "accept", broken)
    response = api.create()
    assert (response.status_code, response["Content-Type"]) == (500, MEDIA_TYPE)
    assert not response.templates
    assert "secret" not in response.content.decode()
    assert "ZeroDivisionError" in caplog.text  # but in the log


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", JOBS),
        ("GET", JOBS),
        ("GET", f"{JOBS}/{uuid.UUID(int=0)}"),
        ("POST", f"{JOBS}/{uuid.UUID(int=0)}/retry"),
    ],
)
def test_without_postgresql_nothing_is_accepted(api, use_database, method, path):
    use_database(REFUSED)
    response = api.generic(method, path, '{"first": "a", "second": "b"}', content_type="application/json")
    assert (response.status_code, response["Content-Type"]) == (503, MEDIA_TYPE)
    assert int(response["Retry-After"]) > 0


def test_what_was_accepted_is_accepted_though_postgresql_goes_away(api, use_database, proxy):
    way = proxy("DATABASE_URL")
    use_database(way.address)

    def break_soon():
        until(Job.objects.exists)
        way.refuse()
        connections.close_all()

    breaking = threading.Thread(target=break_soon)
    breaking.start()
    response = api.create(wait=5)
    breaking.join()
    assert response.status_code == 202
    assert "Location" in response


def test_a_silent_postgresql_is_not_waited_for(api, use_database, silent):
    use_database(silent)
    started = time.monotonic()
    assert api.create().status_code == 503
    assert time.monotonic() - started < 4


def test_a_connection_that_postgresql_cut_off_is_replaced(api):
    assert api.create().status_code == 202
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [pid] = cursor.fetchone()
    killer = connection.copy()
    with killer.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [pid])
    killer.close()
    # Not with Django's client, which leaves out what Django does before a request.
    web = WebServer(application)
    answers = [web.post(JOBS, json={"first": "a", "second": "b"}, base_url="http://localhost") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]


def test_a_search_that_takes_too_long_is_given_up(api, monkeypatch):
    monkeypatch.setattr(endpoints, "SEARCH_SECONDS", 0.2)
    holder = connection.copy()
    with transaction.atomic(), holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE jobs_job IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        response = api.get(f"{JOBS}?q=a")
        assert time.monotonic() - started < 3
        cursor.execute("ROLLBACK")
    holder.close()
    assert response.status_code == 503
    assert "too long" in response.json()["detail"]


# -- Looking ----------------------------------------------------------------------------------------------------------


def test_one_job(api):
    job = a_job(state="failed", reason="It broke.", worker="worker1", attempt=3, idempotency_key="secret")
    response = api.get(f"{JOBS}/{str(job.pk).upper()}")
    assert response.status_code == 200
    assert (response.json()["id"], response.json()["reason"]) == (str(job.pk), "It broke.")
    assert "secret" not in response.content.decode()


def test_head_is_get_without_a_body(api):
    job = a_job()
    for path in (f"{JOBS}/{job.pk}", JOBS, "/api/openapi.json"):
        response = api.head(path)
        assert (response.status_code, response.content) == (200, b"")
    assert api.head("/api/nothing").status_code == 404


def test_a_cursor_keeps_its_place(api):
    now = datetime.now(UTC)
    # Three of each moment, so that a part ends between two of the same.
    expected = [str(a_job(created_at=now + timedelta(microseconds=number // 3)).pk) for number in range(10)]
    order = Job.objects.values_list("pk", flat=True)
    expected = [str(pk) for pk in order]
    seen, cursor = [], ""
    while cursor is not None:
        page = api.get(f"{JOBS}?limit=4" + (f"&cursor={cursor}" if cursor else "")).json()
        assert len(page["items"]) <= 4
        seen += [job["id"] for job in page["items"]]
        cursor = page["next"]
        a_job()  # newer than all of them
    assert seen == expected


def test_the_last_part_says_so(api):
    for _ in range(4):
        a_job()
    assert len(api.get(f"{JOBS}?limit=4").json()["items"]) == 4
    assert api.get(f"{JOBS}?limit=4").json()["next"] is None
    assert api.get(f"{JOBS}?limit=3").json()["next"]


@pytest.mark.parametrize("cursor", ["_" * 32, "A" * 32, "____________________AAAAAAAAAAAA"])
def test_any_cursor_of_the_right_form_is_a_place(api, cursor):
    a_job()
    assert api.get(f"{JOBS}?cursor={cursor}").status_code == 200


def test_the_list_can_be_narrowed(api):
    jobs = {state: a_job(state=state, first=f"50%_{state}") for state in Job.State.values}
    other = a_job(first="Salt", second="pépper")

    def found(query):
        return {job["id"] for job in api.get(f"{JOBS}?{query}").json()["items"]}

    assert found("state=parked") == {str(jobs["parked"].pk)}
    assert found("q=SALT") == found("q=PÉPP") == found(f"q={other.pk}") == {str(other.pk)}
    assert found("q=%25_") == {str(job.pk) for job in jobs.values()}
    assert found("q=50%25_f&state=failed") == {str(jobs["failed"].pk)}
    assert found("q=50%25_f&state=done") == set()
    assert len(found("q=")) == 5


# -- Trying again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "parked"])
def test_a_retry_waits_again(api, state):
    job = a_job(state=state)
    response = api.retry(job)
    assert response.status_code == 202
    assert response["Location"] == f"{JOBS}/{job.pk}"
    shown = response.json()
    assert (shown["state"], shown["attempt"], shown["reason"], shown["finished_at"]) == ("waiting", 2, None, None)
    assert Outbox.objects.get().headers["attempt"] == 2


@pytest.mark.parametrize("state", ["waiting", "done"])
def test_other_jobs_are_not_tried_again(api, state):
    job = a_job(state=state)
    response = api.retry(job)
    assert response.status_code == 409
    assert state in response.json()["detail"]
    assert not Outbox.objects.exists()


def test_several_retries_at_once_are_one(api):
    job = a_job(state="failed")
    responses = together(8, lambda number: api.retry(job).status_code)
    assert Counter(responses) == {202: 1, 409: 7}
    assert Outbox.objects.count() == 1


# -- How much one client may ask --------------------------------------------------------------------------------------


@pytest.fixture
def three(api, settings, monkeypatch):
    """A limit of three requests, in a window that does not end during a test."""
    monkeypatch.setattr(limits, "WINDOW_SECONDS", 10**9)
    settings.API_REQUESTS_PER_MINUTE = 3
    return api


def statuses(api, count, **options):
    return [api.get(JOBS, **options).status_code for _ in range(count)]


def test_a_client_has_a_limit_and_another_has_its_own(three):
    assert statuses(three, 5) == [200, 200, 200, 429, 429]
    assert statuses(three, 1, REMOTE_ADDR="192.0.2.1") == [200]


def test_each_of_many_jobs_counts_as_a_request(three):
    assert many(three, "a", "b").status_code == 202
    assert many(three, "a", "b").status_code == 429
    assert Job.objects.count() == 2


def test_the_limit_says_when_to_come_again(three, monkeypatch):
    monkeypatch.setattr(limits, "WINDOW_SECONDS", 60)
    for _ in range(7):  # a minute may end in between
        response = three.get(JOBS)
    assert (response.status_code, response["Content-Type"]) == (429, MEDIA_TYPE)
    assert 1 <= int(response["Retry-After"]) <= 60
    redis = get_redis_connection("default")
    [*keys] = redis.scan_iter("rate:*:127.0.0.1")
    assert keys
    assert all(0 < redis.ttl(key) <= 60 for key in keys)


def test_a_new_window_begins(three, monkeypatch):
    monkeypatch.setattr(limits, "WINDOW_SECONDS", 1)
    assert 429 in statuses(three, 8)
    time.sleep(1.05)
    assert statuses(three, 1) == [200]


def test_requests_that_are_refused_count_too(three):
    for _ in range(3):
        assert three.create("").status_code == 422
    assert three.create().status_code == 429
    assert not Job.objects.exists()


def test_behind_nginx_the_client_is_whom_nginx_names(three):
    socket_ = {"REMOTE_ADDR": ""}  # gunicorn's word for a peer on a unix socket
    assert statuses(three, 4, headers={"X-Real-IP": "192.0.2.1"}, **socket_) == [200, 200, 200, 429]
    assert statuses(three, 1, headers={"X-Real-IP": "192.0.2.2"}, **socket_) == [200]


def test_over_tcp_nobody_names_himself(three):
    answers = [statuses(three, 1, headers={"X-Real-IP": f"192.0.2.{number}"}) for number in range(4)]
    assert answers[-1] == [429]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", "unknown"),
        ("unix:", "unknown"),
        ("1.2.3.4, 5.6.7.8", "unknown"),
    ],
)
def test_a_client_is_an_address_or_a_network(rf, address, name):
    assert limits.client(rf.get("/", REMOTE_ADDR=address)) == name


def test_a_silent_redis_costs_one_request_a_moment(three, use_redis, silent):
    use_redis(silent)
    started = time.monotonic()
    assert statuses(three, 1) == [200]
    assert time.monotonic() - started < 3
    started = time.monotonic()
    assert statuses(three, 5) == [200] * 5
    assert time.monotonic() - started < 0.5
