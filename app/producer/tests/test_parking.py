"""What RabbitMQ gives up on is taken into PostgreSQL, with a reason, and can be tried again."""

import json
import time
import uuid

import amqp
import pytest
from django.db import connection

from jobs import parking, services
from jobs.models import Job, Outbox, ParkedTask

from .conftest import celery, until

pytestmark = pytest.mark.django_db(transaction=True)

State = Job.State


@pytest.fixture
def refuse(channel):
    """Refuse the one message in a queue: for good, or by giving it back so often that RabbitMQ has enough."""

    def act(queue="service", requeue=False):
        times = 0
        message = until(lambda: channel.basic_get(queue))
        while message:
            channel.basic_reject(message.delivery_tag, requeue=requeue)
            times += 1
            message = requeue and soon(lambda: channel.basic_get(queue))
        return times

    def soon(get):
        """What is given back is not at once there."""
        return next((message for _ in range(30) if (message := get() or time.sleep(0.01))), None)

    return act


@pytest.fixture
def copies(channel):
    """A queue that gets each dead letter as well: its name."""
    name = channel.queue_declare("", exclusive=True).queue
    channel.queue_bind(name, "parked")
    yield name
    channel.queue_delete(name)


@pytest.fixture
def put(channel):
    """Put a message into a queue, as nobody of ours would."""

    def act(body, queue="service", content_type="application/json", **headers):
        properties = {"content_type": content_type, "content_encoding": "utf-8", "application_headers": headers}
        channel.basic_publish(amqp.Message(body, delivery_mode=2, **properties), routing_key=queue)

    return act


def accept(**options):
    return services.accept("a", "b", **options)[0]


def parked_job(job):
    def look():
        job.refresh_from_db()
        return job.state == State.PARKED

    until(look)
    return job


# Jobs


def test_a_job_whose_worker_rejects_it(home, relay, refuse, length):
    job = accept()
    refuse()
    parked_job(job)
    assert job.reason == "Its worker rejected it: it exceeded its time limit, or the worker could not make sense of it."
    assert job.finished_at
    assert not ParkedTask.objects.exists()
    until(lambda: length("parked") == 0)


def test_a_job_that_nobody_survives(home, relay, refuse, length):
    job = accept()
    assert refuse(requeue=True) == 6
    parked_job(job)
    assert job.reason == "Each time it was delivered, its worker died, lost its connection, or gave it back."
    until(lambda: length("parked") == 0)


def test_a_delayed_job_is_parked_for_its_last_reason(home, relay, refuse):
    """It has expired before, in the queues that delay it."""
    job = accept(delay_seconds=1)
    refuse()
    assert parked_job(job).reason.startswith("Its worker rejected it")


def test_a_parked_job_is_tried_again(home, relay, refuse, service_worker):
    job = accept()
    refuse()
    parked_job(job)
    assert services.retry(job)
    with service_worker():
        until(lambda: Job.objects.get().state == State.DONE)
    assert Job.objects.get().attempt == 2


def test_a_dead_letter_of_an_earlier_attempt_changes_nothing(home, relay, refuse, messages, length):
    job = accept()
    until(lambda: length("service") == 1)
    services.end(job.pk, 1, State.FAILED, reason="no")
    job.refresh_from_db()
    services.retry(job)
    until(lambda: length("service") == 2)
    refuse()  # the first attempt's
    until(lambda: length("parked") == 0 and home.has_logged("It has ended otherwise"))
    job.refresh_from_db()
    assert (job.state, job.attempt) == (State.WAITING, 2)
    assert not ParkedTask.objects.exists()


def test_a_dead_letter_of_a_job_that_is_done_changes_nothing(home, relay, refuse, length):
    job = accept()
    until(lambda: length("service") == 1)
    services.end(job.pk, 1, State.DONE, result="a es b")
    refuse()
    parked = accept()
    refuse()
    parked_job(parked)
    job.refresh_from_db()
    assert (job.state, job.reason) == (State.DONE, "")


# Everything else


def test_a_task_of_somebody_else(home, put, refuse, length):
    body = json.dumps([[1, "x"], {"y": None}, {"callbacks": None}])
    put(body, task="other", id="some-id", report={"task": "t", "queue": "q"}, attempt=3)
    refuse()
    until(ParkedTask.objects.exists)
    parked = ParkedTask.objects.get()
    assert (parked.task, parked.task_id, parked.queue) == ("other", "some-id", "service")
    assert (parked.args, parked.kwargs) == ([1, "x"], {"y": None})
    assert parked.headers == {"report": {"task": "t", "queue": "q"}, "attempt": 3}
    assert parked.reason.startswith("Its worker rejected it")
    assert bytes(parked.body) == body.encode()
    until(lambda: length("parked") == 0)


def test_it_is_tried_again(home, relay, put, refuse, messages):
    put(json.dumps([[1], {"x": 2}, {}]), task="other", id="some-id", attempt=3)
    refuse()
    until(ParkedTask.objects.exists)
    assert services.retry_parked(ParkedTask.objects.get())
    [message] = messages("service", 1)
    assert json.loads(message.body)[:2] == [[1], {"x": 2}]
    assert {name: message.headers[name] for name in ("task", "id", "attempt")} == {
        "task": "other",
        "id": "some-id",
        "attempt": 4,
    }
    # It dies once more: that is another dead letter.
    put(message.body, task="other", id="some-id", attempt=4)
    refuse()
    until(lambda: ParkedTask.objects.count() == 2)


def test_a_report_that_died_is_tried_again(home, relay, put, refuse):
    job = accept()
    report = {"id": str(job.pk), "attempt": 1, "state": "done", "result": "a es b", "worker": "worker1"}
    put(json.dumps([[], report, {}]), "parked", task="job_ended", id="x", **{"x-last-death-queue": "results"})
    until(ParkedTask.objects.exists)
    assert services.retry_parked(ParkedTask.objects.get())
    until(lambda: Job.objects.get().state == State.DONE)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xff\x00", "application/octet-stream"),
        (b"not JSON", "application/json"),
        (b"[1]", "application/json"),
        (b"[{}, [], {}]", "application/json"),
        (b'[["\\u0000"], {}, {}]', "application/json"),
        (b'[["\\ud800"], {}, {}]', "application/json"),
        (b"[[NaN, 1e999], {}, {}]", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"", "application/json"),
        (b"\x80\x04", "application/x-python-serialize"),
    ],
    ids=range(10),
)
def test_what_nobody_can_read_is_kept_as_it_is(home, put, length, body, content_type):
    put(body, "parked", content_type, task="nul\0", id="x" * 999)
    until(ParkedTask.objects.exists)
    parked = ParkedTask.objects.get()
    assert bytes(parked.body) == body
    assert (parked.args, parked.kwargs) == (None, None)
    assert parked.task == "nul\N{REPLACEMENT CHARACTER}"
    assert not parked.can_be_retried
    assert not services.retry_parked(parked)
    until(lambda: length("parked") == 0)


@pytest.mark.parametrize(
    "headers",
    [
        {"compression": "gzip"},
        {"x-death": "odd"},
        {"x-death": []},
        {"x-last-death-reason": 5},
        {"task": 5, "id": 5},
        {"task": services.TASK, "report": services.REPORT, "attempt": "x"},
        {"task": services.TASK, "report": services.REPORT, "attempt": 1, "id": "no uuid"},
        {"task": services.TASK, "report": services.REPORT, "attempt": 1, "id": str(uuid.uuid4())},
    ],
    ids=range(8),
)
def test_odd_headers_break_nothing(home, put, length, headers):
    put(b"[[], {}, {}]", "parked", **headers)
    until(ParkedTask.objects.exists)
    until(lambda: length("parked") == 0)


def test_the_same_dead_letter_comes_twice(home, put, refuse, messages, copies):
    put(b"[[], {}, {}]", task="other", id="x")
    refuse()
    until(ParkedTask.objects.exists)
    [message] = messages(copies, 1)
    parking.park(message)
    message.headers["x-delivery-count"] = 1  # which RabbitMQ adds
    parking.park(message)
    assert ParkedTask.objects.count() == 1


@pytest.mark.parametrize("point", ["read", "park"])
def test_a_worker_is_killed_while_it_parks(run, put, tmp_path, length, point):
    """Before it stores the dead letter, and before it acknowledges it."""
    mark = tmp_path / "killed"
    options = ("--concurrency", "1", "--include", "tests.killer")
    run("producer", "results", *options, via=celery, KILL_MARK=str(mark), KILL_AT=point)
    numbers = iter(range(999))

    def killed():
        put(b"[[], {}, {}]", "parked", task="other", id=str(next(numbers)))
        return mark.exists() or time.sleep(0.05)

    until(killed, 20)
    run("producer", "results", "--concurrency", "1", via=celery)
    until(lambda: length("parked") == 0)
    count = next(numbers)
    until(lambda: ParkedTask.objects.count() >= count)
    assert ParkedTask.objects.count() == ParkedTask.objects.values("task_id").distinct().count() == count


def test_postgresql_is_away_for_a_while(run, proxy, put, length, consumers):
    way = proxy("DATABASE_URL")
    database = f"{way.url.rpartition('/')[0]}/{connection.settings_dict['NAME']}"
    worker = run("producer", "results", "--concurrency", "1", via=celery, DATABASE_URL=database)
    until(lambda: worker.has_logged(" ready."))
    way.refuse()
    for number in range(3):
        put(b"[[], {}, {}]", "parked", task="other", id=str(number))
    until(lambda: worker.has_logged("A dead letter waits"))
    way.accept()
    until(lambda: ParkedTask.objects.count() == 3)
    until(lambda: length("parked") == 0)
    # It was held, not given back: to give it back would count, and there is a limit.
    assert "redelivered" not in worker.log.read_text()


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"x-last-death-reason": "expired"}, "It expired before a worker took it."),
        ({"x-last-death-reason": "maxlen"}, "Its queue was full."),
        ({"x-death": [{"reason": "rejected", "queue": "service"}]}, "Its worker rejected it"),
        ({"x-last-death-reason": "delivery_limit"}, "Each time it was delivered"),
        ({"x-last-death-reason": "odd\0"}, "RabbitMQ gave it up (odd\N{REPLACEMENT CHARACTER})."),
        ({}, "RabbitMQ gave it up (for no reason)."),
    ],
)
def test_the_reason_in_words(headers, words):
    assert parking.why(headers).startswith(words)


def test_the_outbox_of_a_parked_task_has_no_job():
    ParkedTask.objects.create(
        task_id="x", task="other", args=[], kwargs={}, headers={}, queue="service", reason="x", body=b"", digest="x"
    )
    services.retry_parked(ParkedTask.objects.get())
    assert Outbox.objects.get().job is None
