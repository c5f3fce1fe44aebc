"""What happens to a job happens in one transaction, to exactly one caller."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from django.db import DataError, IntegrityError, connection
from django.utils import timezone

from jobs import services
from jobs.models import Job, Outbox, ParkedTask

pytestmark = pytest.mark.django_db(transaction=True)

State = Job.State


def at_once(count, act):
    """What `act(number)` gives, or raises, in so many threads that start together."""
    together = threading.Barrier(count)

    def one(number):
        together.wait()
        try:
            return act(number)
        except Exception as exc:
            return exc
        finally:
            connection.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def job(state=State.WAITING, **values):
    finished = {} if state == State.WAITING else {"finished_at": timezone.now()}
    reason = {"reason": "broken"} if state in Job.ENDED_BADLY else {}
    return Job.objects.create(**{"first": "a", "second": "b", "state": state} | finished | reason | values)


def test_what_is_accepted_is_in_the_outbox():
    accepted, created = services.accept("a", "b", work_seconds=3)
    stored = Job.objects.get()
    assert created
    assert (stored.pk, stored.state, stored.attempt) == (accepted.pk, State.WAITING, 1)
    assert (stored.first, stored.second, stored.work_seconds, stored.delay_seconds) == ("a", "b", 3, 0)
    message = Outbox.objects.get()
    assert (message.job, message.task_id, message.task, message.queue) == (
        stored,
        str(stored.pk),
        "adding_task",
        "service",
    )
    assert (message.args, message.kwargs) == (["a", "b"], {"seconds": 3})
    assert message.headers == {"report": {"task": "job_ended", "queue": "results"}, "attempt": 1}
    assert message.countdown is None


def test_no_seconds_are_not_mentioned():
    services.accept("a", "b")
    assert Outbox.objects.get().kwargs == {}


def test_a_delayed_job_is_due_later():
    accepted, _ = services.accept("a", "b", delay_seconds=60)
    assert accepted.due_at - accepted.created_at == timedelta(seconds=60)
    assert 59 < Outbox.objects.get().countdown <= 60


@pytest.mark.parametrize("key", [None, "key"])
def test_without_its_place_in_the_outbox_no_job_is_accepted(monkeypatch, key):
    monkeypatch.setattr(services, "QUEUE", "x" * 256)  # the last of the transaction's statements fails
    with pytest.raises(DataError):
        services.accept("a", "b", key=key)
    assert not Job.objects.exists()
    assert not Outbox.objects.exists()


def test_accepting_asks_neither_rabbitmq_nor_redis(use_broker, use_redis, silent, stopwatch):
    use_broker(f"amqp://{silent}")
    use_redis(silent)
    services.accept("a", "b")
    assert stopwatch() < 0.5


def test_the_same_key_gives_the_same_job():
    first, _ = services.accept("a", "b", delay_seconds=5, key="key")
    again, created = services.accept("a", "b", delay_seconds=5, key="key")
    assert (again.pk, created) == (first.pk, False)
    other, created = services.accept("a", "b", delay_seconds=5, key="other")
    assert other.pk != first.pk
    assert created
    assert Outbox.objects.count() == 2


WORDS = [{"first": str(number), "second": "b", "delay_seconds": number} for number in range(3)]


def test_many_are_accepted_in_their_order():
    accepted, created = services.accept_all(WORDS)
    assert created
    assert [job.first for job in accepted] == ["0", "1", "2"]
    assert [message.args for message in Outbox.objects.order_by("id")] == [["0", "b"], ["1", "b"], ["2", "b"]]
    assert [message.job_id for message in Outbox.objects.order_by("id")] == [job.pk for job in accepted]
    assert accepted[2].due_at - accepted[2].created_at == timedelta(seconds=2)


def test_of_many_all_are_accepted_or_none():
    with pytest.raises(DataError):
        services.accept_all([*WORDS, {"first": "x" * 201, "second": "b"}])
    assert not Job.objects.exists()
    assert not Outbox.objects.exists()


def test_one_key_for_many():
    services.accept("a", "b", key="key")  # another request's
    first, _ = services.accept_all(WORDS, "key")
    again, created = services.accept_all(WORDS, "key")
    assert not created
    assert [job.pk for job in again] == [job.pk for job in first]
    for other in (WORDS[:2], WORDS[::-1], [*WORDS, WORDS[0]], [WORDS[0]]):
        with pytest.raises(services.KeyReused):
            services.accept_all(other, "key")
    assert Outbox.objects.count() == 4


def test_one_key_for_many_at_once():
    found = at_once(6, lambda number: services.accept_all(WORDS, "key"))
    assert sorted(created for _, created in found) == [False] * 5 + [True]
    assert len({tuple(job.pk for job in jobs) for jobs, _ in found}) == 1
    assert Job.objects.count() == Outbox.objects.count() == 3


def test_a_key_gives_its_job_when_that_has_ended():
    first, _ = services.accept("a", "b", key="key")
    services.end(first.pk, 1, State.DONE, result="a es b")
    again, created = services.accept("a", "b", key="key")
    assert (again.pk, again.state, again.result, created) == (first.pk, State.DONE, "a es b", False)


@pytest.mark.parametrize("other", [{"first": "x"}, {"second": "x"}, {"work_seconds": 1}, {"delay_seconds": 1}])
def test_a_key_belongs_to_one_content(other):
    content = {"first": "a", "second": "b"}
    services.accept(**content, key="key")
    with pytest.raises(services.KeyReused):
        services.accept(**content | other, key="key")
    assert Outbox.objects.count() == 1


def test_many_requests_with_one_key_make_one_job():
    for key in map(str, range(10)):
        found = at_once(8, lambda number, key=key: services.accept("a", "b", key=key))
        assert len({accepted.pk for accepted, _ in found}) == 1
        assert sorted(created for _, created in found) == [False] * 7 + [True]
    assert Job.objects.count() == Outbox.objects.count() == 10


def test_of_many_contents_with_one_key_one_is_accepted():
    found = at_once(8, lambda number: services.accept("a", str(number), key="key"))
    assert sum(isinstance(one, services.KeyReused) for one in found) == 7
    assert Job.objects.count() == Outbox.objects.count() == 1


@pytest.mark.parametrize("state", Job.ENDED_BADLY)
def test_a_retry_is_the_next_attempt(state):
    failed = job(state, worker="worker1", started_at=timezone.now(), resends=3)
    assert services.retry(failed)
    assert (failed.state, failed.attempt, failed.reason, failed.worker) == (State.WAITING, 2, "", "")
    assert (failed.started_at, failed.finished_at, failed.resends) == (None, None, 0)
    message = Outbox.objects.get()
    assert (message.task_id, message.headers["attempt"]) == (str(failed.pk), 2)


@pytest.mark.parametrize("state", [State.WAITING, State.DONE])
def test_what_has_not_ended_badly_is_not_retried(state):
    assert not services.retry(job(state))
    assert not Outbox.objects.exists()


def test_many_who_retry_make_one_attempt():
    failed = job(State.FAILED)
    found = at_once(8, lambda number: services.retry(Job.objects.get(pk=failed.pk)))
    assert sorted(found) == [False] * 7 + [True]
    failed.refresh_from_db()
    assert failed.attempt == 2
    assert Outbox.objects.count() == 1


def test_a_job_ends_once_however_many_say_so():
    waiting = job()
    ways = [{"state": State.DONE, "result": "x"}, {"state": State.DONE, "result": "y"}]
    found = at_once(8, lambda number: services.end(waiting.pk, 1, **ways[number % 2]))
    assert sorted(found) == [False] * 7 + [True]


def test_an_end_is_stored():
    waiting = job()
    times = {"started_at": datetime(2026, 1, 1, tzinfo=UTC), "finished_at": datetime(2026, 1, 2, tzinfo=UTC)}
    assert services.end(waiting.pk, 1, State.DONE, result="x", worker="worker1", filer="host", **times)
    waiting.refresh_from_db()
    stored = {
        name: getattr(waiting, name) for name in ("state", "result", "reason", "worker", "filer", "filed", *times)
    }
    expected = {"state": State.DONE, "result": "x", "reason": "", "worker": "worker1", "filer": "host", "filed": False}
    assert stored == expected | times


@pytest.mark.parametrize(
    ("before", "attempt", "state", "ends"),
    [
        # A success is one, whichever attempt it comes from; the effect is there.
        ((State.WAITING, 1), 1, State.DONE, True),
        ((State.WAITING, 2), 1, State.DONE, True),
        ((State.FAILED, 1), 1, State.DONE, True),
        ((State.PARKED, 2), 1, State.DONE, True),
        ((State.DONE, 1), 1, State.DONE, False),
        # A failure counts for the attempt that is under way, and never against a success.
        ((State.WAITING, 1), 1, State.FAILED, True),
        ((State.WAITING, 2), 1, State.FAILED, False),
        ((State.WAITING, 2), 2, State.FAILED, True),
        ((State.FAILED, 1), 1, State.FAILED, False),
        ((State.DONE, 1), 1, State.FAILED, False),
        ((State.WAITING, 1), 1, State.PARKED, True),
        ((State.WAITING, 2), 1, State.PARKED, False),
        ((State.FAILED, 1), 1, State.PARKED, False),
        ((State.DONE, 1), 1, State.PARKED, False),
    ],
)
def test_ends_may_come_twice_late_and_out_of_order(before, attempt, state, ends):
    known = job(before[0], attempt=before[1])
    assert services.end(known.pk, attempt, state, reason="" if state == State.DONE else "again") is ends
    known.refresh_from_db()
    assert (known.state, known.attempt) == (state if ends else before[0], before[1])
    if known.state == State.DONE:
        assert known.reason == ""


def test_many_ends_are_one_after_the_other_for_each_job():
    first, second, third = job(), job(attempt=2), job(State.FAILED)
    ends = [
        services.End(first.pk, 1, State.FAILED, reason="first"),
        services.End(second.pk, 1, State.FAILED, reason="of an earlier attempt"),
        services.End(first.pk, 1, State.DONE, result="x"),
        services.End(uuid.uuid4(), 1, State.DONE, result="nobody's"),
        services.End(third.pk, 1, State.FAILED, reason="no news"),
        services.End(first.pk, 1, State.FAILED, reason="too late"),
        services.End(first.pk, 1, State.DONE, result="too late"),
    ]
    assert services.end_all(ends) == {first.pk}
    assert list(Job.objects.order_by("attempt", "state").values_list("pk", "state", "result", "reason")) == [
        (first.pk, State.DONE, "x", ""),
        (third.pk, State.FAILED, "", "broken"),
        (second.pk, State.WAITING, "", ""),
    ]
    assert services.end_all([]) == set()


def test_an_unknown_job_does_not_end():
    assert not services.end(uuid.uuid4(), 1, State.DONE)


PARKED = {"task_id": "id", "task": "other", "args": [1], "kwargs": {"x": 2}, "headers": {"report": 3}, "body": b""}


def test_a_parked_task_is_sent_again_once():
    parked = ParkedTask.objects.create(**PARKED, queue="service", reason="x", digest="x")
    found = at_once(4, lambda number: services.retry_parked(ParkedTask.objects.get()))
    assert sorted(found) == [False] * 3 + [True]
    message = Outbox.objects.get()
    assert (message.job, message.queue) == (None, "service")
    assert (message.task_id, message.task, message.args, message.kwargs) == ("id", "other", [1], {"x": 2})
    assert message.headers == {"report": 3, "attempt": 2}
    parked.refresh_from_db()
    assert parked.retried_at
    assert not parked.can_be_retried


@pytest.mark.parametrize("lack", [{"args": None}, {"task": ""}, {"queue": "unknown"}])
def test_what_cannot_be_sent_is_not_sent_again(lack):
    parked = ParkedTask.objects.create(**PARKED | {"queue": "service"} | lack, reason="x", digest="x")
    assert not services.retry_parked(parked)
    assert not Outbox.objects.exists()


@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("job_state_is_known", {"state": "odd", "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("job_finished_unless_waiting", {"state": "done"}),
        ("job_finished_unless_waiting", {"state": "waiting", "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("job_failed_has_reason", {"state": "failed", "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("job_failed_has_reason", {"state": "parked", "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}),
    ],
)
def test_a_row_that_means_nothing_is_refused(constraint, values):
    with pytest.raises(IntegrityError, match=constraint):
        Job.objects.create(first="a", second="b", **values)


def test_clocks_that_differ_show_no_negative_time():
    now = timezone.now()
    assert Job(created_at=now, finished_at=now - timedelta(seconds=1)).seconds == 0
    assert Job(created_at=now).seconds is None
