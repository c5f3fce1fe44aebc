"""The pages as HTML: the form, a job, the lists, the errors; with all tiers, and without some."""

import re
import time
import uuid
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import pytest
from django.core.cache import cache
from django.db import connections
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import escape

from jobs import listing, results, services
from jobs.models import Job, JobQuerySet, Outbox, ParkedTask
from jobs.templatetags.quintet import duration

from .conftest import REFUSED, until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh_status")]

State = Job.State
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Page(HTMLParser):
    """A page's elements, each as (tag, attributes), and what ids it has."""

    def __init__(self, response):
        super().__init__()
        self.elements = []
        self.text = response.content.decode()
        self.feed(self.text)
        self.ids = {attributes["id"] for _, attributes in self.elements if "id" in attributes}

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def all(self, tag, **wanted):
        """The attributes of all such elements."""
        return [has for name, has in self.elements if name == tag and wanted.items() <= has.items()]

    def one(self, tag, **wanted):
        """The same of the only one."""
        (found,) = self.all(tag, **wanted)
        return found


def post(client, first="a", second="b", **more):
    return client.post("/", {"first": first, "second": second} | more)


def job(state=State.DONE, **values):
    if state != State.WAITING:
        values = {"finished_at": timezone.now()} | values
    if state in Job.ENDED_BADLY:
        values = {"reason": "asked to fail"} | values
    return Job.objects.create(**{"first": "a", "second": "b", "state": state} | values)


def letter(**values):
    values = {
        "task": "mail.send",
        "task_id": "7",
        "args": ["secret"],
        "kwargs": {},
        "headers": {},
        "queue": "service",
    } | values
    return ParkedTask.objects.create(**{"reason": "rejected", "body": b"", "digest": uuid.uuid4().hex} | values)


@pytest.fixture
def impatient(settings):
    """No post waits for its result."""
    settings.RESULT_WAIT_SECONDS = 0


@pytest.fixture
def no_database(monkeypatch):
    """PostgreSQL refuses connections from now on: call it."""

    def away():
        connections["default"].close()
        for place in (connections.settings["default"], connections["default"].settings_dict):
            monkeypatch.setitem(place, "PORT", 1)

    yield away
    connections["default"].close()


# The form


def test_the_form_has_labels_and_a_token(client):
    page = Page(client.get("/"))
    labels = {has["for"] for has in page.all("label")}
    assert labels == {"id_first", "id_second", "id_work_seconds", "id_delay_seconds"} <= page.ids
    assert page.one("input", name="csrfmiddlewaretoken")
    assert page.one("html")["lang"] == "en"
    assert "<title>Quintet</title>" in page.text


def test_each_form_has_a_key_of_its_own(client):
    keys = {Page(client.get("/")).one("input", name="key")["value"] for _ in range(2)}
    assert len({uuid.UUID(key) for key in keys}) == 2


def test_a_post_without_token_is_refused():
    response = post(Client(enforce_csrf_checks=True))
    assert response.status_code == 403
    assert "Please send it again" in response.content.decode()
    assert not Job.objects.exists()


@pytest.mark.usefixtures("worker")
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "b"), ("x" * 200, "y" * 200), ("Grüße", "🐇 日本"), ("' OR 1=1 --", "%s{}%(a)s"), (" padded ", "b")],
)
def test_a_job_goes_round(client, first, second):
    response = post(client, first, second)
    stored = Job.objects.get()
    assert (response.status_code, response.url) == (302, f"/jobs/{stored.pk}/")
    text = client.get(response.url).content.decode()
    expected = f"{first.strip()} es {second.strip()}"
    assert escape(expected) in text  # shown by Redis, whether or not the row knows already
    assert "by <strong>worker1</strong>" in text
    assert "http-equiv" not in text

    until(lambda: client.get(f"/jobs/{stored.pk}.json").json()["stage"] == "done")
    shown = client.get(f"/jobs/{stored.pk}.json").json()
    assert (shown["state"], shown["result"], shown["worker"]) == ("done", expected, "worker1")
    assert shown["created_at"] <= shown["started_at"] <= shown["finished_at"]
    assert "Started by worker1" in client.get(response.url).content.decode()


@pytest.mark.parametrize(
    ("values", "name", "complaint"),
    [
        ({"first": ""}, "first", "This field is required."),
        ({"first": "   "}, "first", "This field is required."),
        ({"second": "x" * 201}, "second", "at most 200 characters"),
        ({"first": "a\0"}, "first", "Null characters are not allowed."),
        ({"work_seconds": "31"}, "work_seconds", "less than or equal to 30"),
        ({"work_seconds": "-1"}, "work_seconds", "greater than or equal to 0"),
        ({"delay_seconds": "3601"}, "delay_seconds", "less than or equal to 3600"),
        ({"delay_seconds": "soon"}, "delay_seconds", "Enter a whole number."),
    ],
)
def test_an_invalid_form_says_what_is_wrong_where(client, values, name, complaint):
    response = post(client, **{"first": "a", "second": "b"} | values)
    page = Page(response)
    assert response.status_code == 422
    assert complaint in page.text
    assert page.one("title") is not None
    assert "Please correct" in page.text[: page.text.index("</title>")]
    # At the field, for who hears the page as well; and at the top, with a way to the field.
    field = page.one("input", name=name)
    assert field["aria-invalid"] == "true"
    assert f"id_{name}_error" in field["aria-describedby"].split()
    assert set(field["aria-describedby"].split()) <= page.ids
    assert page.one("div", role="alert")
    assert page.one("a", href=f"#id_{name}")
    # What is wrong is not folded away.
    assert ("open" in page.one("details", **{"class": "more"})) == (name in ("work_seconds", "delay_seconds"))
    assert not Job.objects.exists()


def test_an_invalid_form_keeps_what_was_right(client):
    key = str(uuid.uuid4())
    page = Page(post(client, "a", "", key=key))
    assert page.one("input", name="first")["value"] == "a"
    assert page.one("input", name="key")["value"] == key


def test_a_post_without_fields_is_shown_again(client):
    assert client.post("/").status_code == 422


@pytest.mark.usefixtures("impatient")
def test_a_form_that_is_posted_twice_makes_one_job(client):
    key = str(uuid.uuid4())
    first, second = post(client, key=key), post(client, key=key)
    assert first.url == second.url
    assert Job.objects.count() == Outbox.objects.count() == 1
    assert len(client.get("/jobs/mine/").context["jobs"]) == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("other", [{"second": "c"}, {"work_seconds": "1"}, {"delay_seconds": "1"}, {"key": "another"}])
def test_who_goes_back_and_wants_something_else_gets_it(client, other):
    post(client, key="key")
    post(client, **{"key": "key"} | other)
    assert Job.objects.count() == 2


@pytest.mark.usefixtures("impatient")
def test_without_a_key_each_post_is_a_job(client):
    assert post(client).url != post(client).url


@pytest.mark.usefixtures("impatient")
def test_more_can_be_asked_for(client):
    post(client, work_seconds="3", delay_seconds="60")
    stored = Job.objects.get()
    assert (stored.work_seconds, stored.delay_seconds) == (3, 60)
    text = client.get(f"/jobs/{stored.pk}/").content.decode()
    assert "takes 3\N{NO-BREAK SPACE}s over it" in text


def test_the_wait_for_a_result_is_bounded(client, settings, stopwatch):
    settings.RESULT_WAIT_SECONDS = 0.4
    assert post(client).status_code == 302
    assert 0.4 <= stopwatch() < 1.2


def test_nobody_waits_for_what_takes_longer_anyway(client, settings, stopwatch):
    settings.RESULT_WAIT_SECONDS = 2
    post(client, work_seconds="5")
    post(client, delay_seconds="5")
    assert stopwatch() < 1


@pytest.mark.usefixtures("impatient")
def test_a_job_is_accepted_without_rabbitmq_and_without_redis(client, use_broker, use_redis, stopwatch):
    use_broker(f"amqp://{REFUSED}")
    use_redis(REFUSED)
    response = post(client)
    assert response.status_code == 302
    assert Outbox.objects.get().job == Job.objects.get()
    assert "Waiting for a worker" in client.get(response.url).content.decode()
    assert len(client.get("/jobs/mine/").context["jobs"]) == 1
    assert stopwatch() < 3


# A job


@pytest.mark.parametrize(
    ("values", "outbox", "stage", "words"),
    [
        ({"state": State.WAITING}, True, "kept", "on its way to RabbitMQ"),
        ({"state": State.WAITING}, False, "sent", "in the queue, or with a worker"),
        ({"state": State.WAITING, "due_at": NOON.replace(year=2100)}, False, "delayed", "starts not before"),
        ({"state": State.DONE, "result": "a es b"}, False, "done", "a es b"),
        ({"state": State.FAILED}, False, "failed", "asked to fail"),
        ({"state": State.PARKED}, False, "parked", "asked to fail"),
    ],
)
def test_a_job_shows_how_far_it_is(client, values, outbox, stage, words):
    shown = job(**values)
    if outbox:
        Outbox.objects.create(job=shown, task_id=str(shown.pk), task="adding_task")
    response = client.get(f"/jobs/{shown.pk}/")
    page = Page(response)
    assert words in page.text
    assert page.one("div", id="live")["data-stage"] == stage
    assert page.one("div", id="live")["data-address"] == f"/jobs/{shown.pk}.json"
    assert client.get(f"/jobs/{shown.pk}.json").json()["stage"] == stage
    # Only what is not at home yet is looked at again, also without scripts.
    assert bool(page.all("meta", **{"http-equiv": "refresh"})) == (values["state"] == State.WAITING)
    assert bool(page.all("form")) == (values["state"] in Job.ENDED_BADLY)


def test_a_timeline_says_what_took_how_long(client):
    times = {"created_at": NOON, "due_at": NOON, "started_at": NOON + timedelta(milliseconds=20)}
    shown = job(result="a es b", worker="worker7", finished_at=NOON + timedelta(seconds=3.02), **times)
    steps = client.get(f"/jobs/{shown.pk}/").context["timeline"]
    assert [step["title"] for step in steps] == ["Accepted", "Started by worker7", "Done"]
    assert [step["seconds"] for step in steps] == [None, 0.02, 3.0]
    text = client.get(f"/jobs/{shown.pk}/").content.decode()
    assert "20\N{NO-BREAK SPACE}ms until a worker had it" in text
    assert '<time datetime="2026-01-01T12:00:00.000+00:00">2026-01-01 12:00:00 UTC</time>' in text


def test_a_timeline_of_a_retry_starts_with_the_retry(client):
    due = NOON + timedelta(hours=1)
    shown = job(result="x", attempt=3, created_at=NOON, due_at=due, finished_at=due + timedelta(seconds=1))
    steps = client.get(f"/jobs/{shown.pk}/").context["timeline"]
    assert [step["title"] for step in steps] == ["Accepted", "Sent again, attempt 3", "Done"]
    assert steps[-1]["seconds"] == 1


def test_a_job_that_ends_just_now_is_shown_as_it_ended(client, monkeypatch):
    shown = job(State.WAITING)

    def end(late):
        services.end(late.pk, 1, State.FAILED, reason="just now")
        late.refresh_from_db()
        return late

    monkeypatch.setattr(results, "live", end)
    assert client.get(f"/jobs/{shown.pk}.json").json()["stage"] == "failed"


def test_a_delay_that_was_asked_for_is_told_apart(client):
    shown = job(created_at=NOON, delay_seconds=7, started_at=NOON + timedelta(seconds=8), result="x")
    text = client.get(f"/jobs/{shown.pk}/").content.decode()
    assert "8\N{NO-BREAK SPACE}s until a worker had it, 7 s of it as asked" in text


def test_json(client):
    shown = job(result="a es b", worker="worker7", started_at=timezone.now(), work_seconds=2)
    response = client.get(f"/jobs/{shown.pk}.json")
    assert response["Cache-Control"].startswith("max-age=0")
    values = response.json()
    times = [values.pop(name) for name in ("created_at", "started_at", "finished_at")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value) for value in times)
    assert values == {
        "id": str(shown.pk),
        "state": "done",
        "stage": "done",
        "first": "a",
        "second": "b",
        "work_seconds": 2,
        "delay_seconds": 0,
        "attempt": 1,
        "result": "a es b",
        "reason": "",
        "worker": "worker7",
    }


def test_html_is_shown_as_text(client):
    shown = job(first="<script>alert(1)</script>", second='"><b>', result='<i>&"', worker="<u>")
    client.session["jobs"] = [str(shown.pk)]
    for address in ("/", "/jobs/", f"/jobs/{shown.pk}/", "/jobs/?q=%3Cscript%3Ealert"):
        text = client.get(address).content.decode()
        assert "&lt;i&gt;&amp;&quot;" in text
        for forbidden in ("<script>", "<b>", "<i>", "<u>"):
            assert forbidden not in text


@pytest.mark.parametrize("state", Job.ENDED_BADLY)
def test_everybody_may_try_a_job_again(client, state):
    shown = job(state)
    response = client.post(f"/jobs/{shown.pk}/retry/")
    assert (response.status_code, response.url) == (302, f"/jobs/{shown.pk}/")
    shown.refresh_from_db()
    assert (shown.state, shown.attempt, shown.reason) == (State.WAITING, 2, "")
    assert Outbox.objects.get().headers["attempt"] == 2
    client.post(f"/jobs/{shown.pk}/retry/")  # a second click
    assert Outbox.objects.count() == 1


def test_a_job_that_is_done_is_not_tried_again(client):
    shown = job(result="a es b")
    assert client.post(f"/jobs/{shown.pk}/retry/").status_code == 302
    shown.refresh_from_db()
    assert (shown.state, shown.attempt) == (State.DONE, 1)
    assert not Outbox.objects.exists()


@pytest.mark.parametrize("address", ["/jobs/{}/", "/jobs/{}.json"])
def test_an_unknown_job_is_not_found(client, address):
    assert client.get(address.format(uuid.uuid4())).status_code == 404


def test_nobody_retries_an_unknown_job(client):
    assert client.post(f"/jobs/{uuid.uuid4()}/retry/").status_code == 404


# Lists


@pytest.mark.usefixtures("impatient")
def test_my_jobs_are_mine(client):
    for number in range(52):
        post(client, f"mine{number}")
    latest = [f"mine{number}" for number in range(51, -1, -1)]
    assert [job.first for job in client.get("/").context["mine"]] == latest[:5]
    assert [job.first for job in client.get("/jobs/mine/").context["jobs"]] == latest[:50]
    assert "You sent nothing yet" in Client().get("/jobs/mine/").content.decode()
    assert len(Client().get("/").context["latest"]) == 5


@pytest.mark.usefixtures("impatient")
def test_my_jobs_survive_the_loss_of_redis(client, use_redis):
    post(client)
    cache.clear()
    assert len(client.get("/jobs/mine/").context["jobs"]) == 1
    use_redis(REFUSED)
    assert len(client.get("/jobs/mine/").context["jobs"]) == 1


def numbered(count, **values):
    """Jobs from the oldest, 0, to the newest; some at the very same time."""
    return Job.objects.bulk_create(
        Job(
            first=f"n{number:03}",
            second="b",
            state=State.DONE,
            finished_at=NOON,
            created_at=NOON + timedelta(seconds=number // 3),
            **values,
        )
        for number in range(count)
    )


def test_pages_of_jobs_show_each_job_once_there_and_back(client):
    numbered(60)
    expected = list(Job.objects.values_list("pk", flat=True))
    there, back = [], []
    page = client.get("/jobs/").context
    assert not page["newer"]
    while True:
        there.append([job.pk for job in page["jobs"]])
        if not page["older"]:
            break
        page = client.get(f"/jobs/?{page['older']}").context
    assert [len(pks) for pks in there] == [25, 25, 10]
    assert [pk for pks in there for pk in pks] == expected
    while page["newer"]:
        page = client.get(f"/jobs/?{page['newer']}").context
        back.insert(0, [job.pk for job in page["jobs"]])
    assert back == there[:2]


def test_a_page_keeps_its_place_when_jobs_come_in(client):
    numbered(30)
    older = client.get("/jobs/").context["older"]
    expected = [job.pk for job in client.get(f"/jobs/?{older}").context["jobs"]]
    job()
    assert len(expected) == 5
    assert [job.pk for job in client.get(f"/jobs/?{older}").context["jobs"]] == expected


def test_a_page_keeps_what_was_searched_for(client):
    numbered(40)
    job(first="other")
    page = client.get("/jobs/?q=N0&state=done").context
    assert "q=N0" in page["older"]
    assert "state=done" in page["older"]
    assert len(client.get(f"/jobs/?{page['older']}").context["jobs"]) == 15


@pytest.mark.parametrize("query", ["older=x", "newer=%00", "older=" + "!" * 32, "newer=" + "_" * 32, "state=odd"])
def test_nonsense_is_the_first_page(client, query):
    shown = job()
    assert [job.pk for job in client.get(f"/jobs/?{query}").context["jobs"]] == [shown.pk]


def test_states_are_told_apart(client):
    made = {state: job(state) for state in State}
    for state in State:
        response = client.get(f"/jobs/?state={state}")
        assert [job.pk for job in response.context["jobs"]] == [made[state].pk]
        assert Page(response).one("a", href=f"?state={state}")["aria-current"] == "true"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Cello", ["cello"]),
        ("ELL", ["cello"]),
        ("über", ["ÜBER"]),
        ("cello es", ["cello"]),
        ("o es v", ["cello"]),
        ("rabbit", ["cello"]),
        ("50%", ["50%"]),
        ("%", ["50%"]),
        ("a_b", []),
        ("🐇", ["🐇"]),
        ("nothing", []),
        ("x\0y", []),
        ("0f0f", ["cello"]),
        ("0F0F0F0F-0f0f-4f0f-8f0f-0f0f0f0f0f0f", ["cello"]),
        ("0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0e", []),
    ],
)
def test_jobs_are_found(client, text, found):
    pk = uuid.UUID("0f0f0f0f-0f0f-4f0f-8f0f-0f0f0f0f0f0f")
    job(pk=pk, first="cello", second="vrabbit", result="cello es vrabbit")
    for first in ("ÜBER", "50%", "🐇", "axb"):
        job(first=first, result=f"{first} es b")
    response = client.get("/jobs/", {"q": text})
    assert [job.first for job in response.context["jobs"]] == found
    assert found or "No job is like that" in response.content.decode()


def test_a_search_that_takes_too_long_is_given_up(client, monkeypatch, stopwatch):
    job()
    monkeypatch.setattr(listing, "SEARCH_SECONDS", 0.2)
    monkeypatch.setattr(JobQuerySet, "search", lambda self, text: self.extra(where=["pg_sleep(5) IS NOT NULL"]))
    response = client.get("/jobs/?q=x")
    assert "takes too long" in response.content.decode()
    assert response.status_code == 200
    assert stopwatch() < 2
    assert client.get("/jobs/").context["jobs"]


def test_results_as_text(client):
    job(State.FAILED)
    job(State.WAITING)
    later = job(first="tab\t", result="x", finished_at=NOON + timedelta(seconds=1))
    sooner = job(result="a es b", finished_at=NOON)
    response = client.get("/results.txt")
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert b"".join(response.streaming_content).decode() == (
        f"2026-01-01T12:00:00+00:00\t{sooner.pk}\ta\tb\ta es b\n2026-01-01T12:00:01+00:00\t{later.pk}\ttab\\t\tb\tx\n"
    )


@pytest.mark.parametrize(("count", "text"), [(0, "0 done so far"), (1, "1 done so far"), (5, "3+ done so far")])
def test_the_number_of_jobs_done_is_counted_up_to_a_limit(client, monkeypatch, count, text):
    monkeypatch.setattr("jobs.views.COUNTED", 3)
    monkeypatch.setattr("jobs.templatetags.quintet.COUNTED", 3)
    numbered(count)
    assert text in client.get("/").content.decode()


# Parked tasks


def test_what_is_in_a_dead_letter_is_for_staff(client, admin_client):
    letter()
    assert "Nothing is parked" not in client.get("/jobs/parked/").content.decode()
    text = client.get("/jobs/parked/").content.decode()
    assert "mail.send" in text
    assert "secret" not in text
    assert "Log in as staff" in text
    assert not Page(client.get("/jobs/parked/")).all("form")
    page = Page(admin_client.get("/jobs/parked/"))
    assert "secret" in page.text
    assert page.one("form")


def test_only_staff_sends_a_dead_letter_again(client, admin_client):
    dead = letter()
    address = reverse("jobs:retry-parked", args=[dead.pk])
    response = client.post(address)
    assert response.status_code == 403
    assert "Only staff may do that" in response.content.decode()
    assert not Outbox.objects.exists()
    for _ in range(2):
        assert admin_client.post(address).url == "/jobs/parked/"
    message = Outbox.objects.get()
    assert (message.task, message.args, message.queue, message.job) == ("mail.send", ["secret"], "service", None)
    page = Page(admin_client.get("/jobs/parked/"))
    assert "Sent again" in page.text
    assert not page.all("form")


def test_pages_do_not_tell_where_the_admin_site_was_moved(client, settings):
    dead = letter()

    def told():
        answers = [client.get(path).content.decode() for path in ("/", "/jobs/parked/")]
        answers.append(str(client.post(reverse("jobs:retry-parked", args=[dead.pk])).headers))
        return ["/admin/" in answer for answer in answers]

    assert told() == [True, True, False]
    settings.ADMIN_PATH = "elsewhere/"
    assert told() == [False, False, False]


def test_what_nobody_can_read_cannot_be_sent_again(admin_client):
    letter(task="", args=None, kwargs=None)
    page = Page(admin_client.get("/jobs/parked/"))
    assert "nobody can read" in page.text
    assert not page.all("form")


def test_nothing_is_parked(client):
    assert "Nothing is parked" in client.get("/jobs/parked/").content.decode()


def test_pages_of_parked_tasks(client):
    for number in range(30):
        letter(task=f"t{number}")
    first = client.get("/jobs/parked/").context
    second = client.get(f"/jobs/parked/?older={first['older']}").context
    names = [task.task for page in (first, second) for task in page["tasks"]]
    assert names == [f"t{number}" for number in range(29, -1, -1)]
    assert not second["older"]


# All pages


@pytest.fixture
def addresses():
    """Each kind of page, with something on it."""
    made = [job(State.WAITING), job(result="a es b"), job(State.FAILED), job(State.PARKED)]
    letter()
    lists = ["/", "/jobs/", "/jobs/?q=zzz", "/jobs/mine/", "/jobs/parked/", "/status/", "/nothing"]
    return [*lists, *(one.get_absolute_url() for one in made)]


@pytest.mark.django_db(transaction=True)
def test_everything_a_page_needs_is_its_own(client, addresses):
    for address in addresses:
        page = Page(client.get(address))
        for tag, attributes in page.elements:
            assert tag != "style"
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith("on")]
            for name in {"src", "href", "action", "data"} & attributes.keys():
                assert re.match(r"[/?#](?!/)", attributes[name]), (address, tag, attributes)
        assert all("src" in has for has in page.all("script"))
        assert len(page.all("h1")) == 1


@pytest.mark.django_db(transaction=True)
def test_nothing_is_kept_by_a_cache(client, addresses):
    for address in [*addresses, "/status.json"]:
        if address != "/nothing":
            assert "no-store" in client.get(address)["Cache-Control"]


@pytest.mark.parametrize("path", ["/jobs/1/", "/jobs/x.json", "/nothing", "/jobs/parked/x/retry/"])
def test_an_unknown_address_is_not_found(client, path):
    response = client.get(path)
    assert response.status_code == 404
    assert "Nothing is here" in response.content.decode()


READ_ONLY = ["/jobs/", "/jobs/mine/", "/jobs/parked/", "/results.txt", "/status/", "/status.json"]
ANY = "00000000-0000-4000-8000-000000000000"


@pytest.mark.parametrize("path", [*READ_ONLY, f"/jobs/{ANY}/", f"/jobs/{ANY}.json"])
def test_only_forms_take_posts(client, path):
    assert client.post(path).status_code == 405


@pytest.mark.parametrize("path", [f"/jobs/{ANY}/retry/", "/jobs/parked/1/retry/"])
def test_only_posts_change_something(client, path):
    assert client.get(path).status_code == 405


# Without PostgreSQL


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("path", ["/", "/jobs/", "/jobs/mine/", "/jobs/parked/", f"/jobs/{ANY}/", "/results.txt"])
def test_pages_without_postgresql_say_so(client, no_database, path, stopwatch):
    post(client)  # who has a session, which PostgreSQL keeps
    cache.clear()
    no_database()
    response = client.get(path)
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    page = Page(response)
    assert "The database does not answer" in page.text
    assert page.all("meta", **{"http-equiv": "refresh"})
    assert page.one("a", **{"class": "button"})["href"] == "/status/"
    assert stopwatch() < 3


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("impatient")
def test_who_cannot_be_accepted_keeps_the_words(client, no_database):
    no_database()
    response = post(client, "precious", "words", key="key")
    page = Page(response)
    assert response.status_code == 503
    assert page.one("input", name="first")["value"] == "precious"
    assert page.one("input", name="key")["value"] == "key"
    assert page.one("div", role="alert")


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("impatient")
def test_a_session_that_cannot_be_kept_is_no_mistake_of_ours(client, monkeypatch, no_database):
    accept = services.accept

    def accept_and_die(*args, **kwargs):
        accepted = accept(*args, **kwargs)
        no_database()
        return accepted

    monkeypatch.setattr(services, "accept", accept_and_die)
    client.raise_request_exception = False
    response = post(client)
    assert response.status_code == 503
    assert "it makes one job" in response.content.decode()


def test_a_mistake_of_ours_is_a_page_as_well(client, monkeypatch):
    monkeypatch.setattr(listing, "find", lambda query: 1 / 0)
    client.raise_request_exception = False
    response = client.get("/jobs/")
    assert response.status_code == 500
    assert "That is our mistake" in response.content.decode()


# Small things


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (-1, "0 ms"),
        (0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.012, "12 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (1.2345, "1.23 s"),
        (59.99, "59.99 s"),
        (59.999, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90000, "25 h 0 min"),
    ],
)
def test_durations_are_readable(seconds, text):
    assert duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


# The admin site


def test_the_admin_shows_everything_and_changes_no_job(admin_client):
    shown = job(State.FAILED)
    Outbox.objects.create(job=shown, task_id=str(shown.pk), task="adding_task")
    dead = letter()
    for name, pk in (("job", shown.pk), ("outbox", Outbox.objects.get().pk), ("parkedtask", dead.pk)):
        assert str(pk) in admin_client.get(f"/admin/jobs/{name}/").content.decode()
        assert admin_client.get(f"/admin/jobs/{name}/{pk}/change/").status_code == 200
        assert admin_client.get(f"/admin/jobs/{name}/add/").status_code == 403
        assert admin_client.post(f"/admin/jobs/{name}/{pk}/change/", {"first": "c"}).status_code == 403
    assert admin_client.post(f"/admin/jobs/job/{shown.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"/admin/jobs/parkedtask/{dead.pk}/delete/", {"post": "yes"}).status_code == 302


def test_the_admin_finds_jobs_as_the_pages_do(admin_client):
    wanted, other = job(first="needle"), job()
    text = admin_client.get("/admin/jobs/job/?q=EEDL").content.decode()
    assert str(wanted.pk) in text
    assert str(other.pk) not in text


def test_the_admin_tries_again(admin_client):
    failed, done, dead = job(State.FAILED), job(), letter()
    chosen = {"action": "try_again", "_selected_action": [failed.pk, done.pk]}
    text = admin_client.post("/admin/jobs/job/", chosen, follow=True).content.decode()
    assert "Jobs that wait again: 1" in text
    chosen = {"action": "try_again", "_selected_action": [dead.pk]}
    text = admin_client.post("/admin/jobs/parkedtask/", chosen, follow=True).content.decode()
    assert "Tasks that were sent again: 1" in text
    assert Outbox.objects.count() == 2


def test_times_are_those_of_now(client):
    shown = job(created_at=timezone.now())
    text = client.get(f"/jobs/{shown.pk}/").content.decode()
    assert time.strftime(">%H:%M", time.gmtime(shown.created_at.timestamp())) in text
