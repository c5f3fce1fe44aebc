"""What is in the outbox reaches RabbitMQ: in order, soon, and whatever fails in between, at least once."""

import json
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest
from django.conf import settings as configured
from django.db import connection, transaction
from django.utils import timezone

from jobs import broker, relay, services
from jobs.broker import PublishError, Sender
from jobs.models import Job, Outbox
from producer.celery import app

from .conftest import declare_queues, until

pytestmark = pytest.mark.django_db(transaction=True)


def accept(count):
    """Accept so many jobs; their ids, in order."""
    return [str(services.accept("a", str(number))[0].pk) for number in range(count)]


def ids(messages):
    return [message.headers["id"] for message in messages]


@pytest.fixture
def run_relay(run):
    """Run a relay as a process."""
    return lambda **environment: run("manage.py", "relay", **environment)


@pytest.fixture
def slow_broker(monkeypatch, proxy, use_broker):
    """A way to RabbitMQ that can fail, and less patience than usual."""
    monkeypatch.setitem(app.conf, "broker_connection_timeout", 0.5)
    monkeypatch.setattr(broker, "CONFIRM_SECONDS", 0.5)
    monkeypatch.setattr(broker, "BOUNDS", broker.BOUNDS | {"read_timeout": 0.5, "write_timeout": 0.5})
    way = proxy("CELERY_BROKER_URL")
    use_broker(way.url)
    return way


def outbox(count=1):
    """Messages that are in no table."""
    return [
        Outbox(task="adding_task", task_id=str(number), args=["a", "b"], queue="service") for number in range(count)
    ]


# Messages


@pytest.mark.usefixtures("relay")
def test_the_message_is_as_the_service_expects_it(messages):
    job, _ = services.accept("a", "b", work_seconds=2)
    [message] = messages("service", 1)
    assert json.loads(message.body)[:2] == [["a", "b"], {"seconds": 2}]
    headers = {name: message.headers[name] for name in ("task", "id", "report", "attempt", "eta", "retries")}
    report = {"task": "job_ended", "queue": "results"}
    assert headers == {
        "task": "adding_task",
        "id": str(job.pk),
        "report": report,
        "attempt": 1,
        "eta": None,
        "retries": 0,
    }
    assert message.properties["delivery_mode"] == 2
    assert message.content_type == "application/json"
    until(lambda: not Outbox.objects.exists())


def test_what_waited_is_sent_in_order(messages, relaying):
    expected = accept(250)
    with relaying():
        assert ids(messages("service", 250)) == expected
        until(lambda: not Outbox.objects.exists())
    assert not messages("service")


@pytest.mark.usefixtures("relay")
def test_between_accepted_and_sent_there_are_milliseconds(channel, messages):
    accept(1)
    messages("service", 1)  # it is connected by now
    seconds = []
    for _ in range(30):
        time.sleep(0.02)
        started = time.perf_counter()
        accept(1)
        while not channel.basic_get("service", no_ack=True):
            pass
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[15] < 0.1, seconds


@pytest.fixture
def stuck_commits(transactional_db):
    """A cluster of PostgreSQL one of whose members is slow: what is committed waits for it, until this is called."""

    def wait_for(members):
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{members}'")
            cursor.execute("SELECT pg_reload_conf()")
        with connection.cursor() as cursor:
            until(lambda: cursor.execute("SHOW synchronous_standby_names") and cursor.fetchone()[0] == members)

    wait_for("slow")
    yield lambda: wait_for("")
    wait_for("")


def test_those_who_accept_at_once_wait_for_the_cluster_and_not_for_each_other(stuck_commits):
    def accept_one():
        accept(1)
        connection.close()

    threads = [threading.Thread(target=accept_one) for _ in range(5)]
    for thread in threads:
        thread.start()
    waiting = """
        SELECT wait_event FROM pg_stat_activity
        WHERE query ILIKE 'commit' AND state = 'active' AND datname = current_database()
    """
    with connection.cursor() as cursor:
        until(lambda: cursor.execute(waiting) and cursor.rowcount == 5)
        time.sleep(0.5)
        cursor.execute(waiting)
        found = [row[0] for row in cursor.fetchall()]
    stuck_commits()
    for thread in threads:
        thread.join()
    assert found == ["SyncRep"] * 5
    assert Outbox.objects.count() == 5


@pytest.mark.usefixtures("relay")
def test_many_who_accept_at_once_wait_for_nobody(messages):
    together = threading.Barrier(8)

    def accept_some():
        together.wait()
        accept(25)
        connection.close()

    threads = [threading.Thread(target=accept_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert len(set(ids(messages("service", 200)))) == 200
    for thread in threads:
        thread.join()


def test_a_delayed_job_arrives_later_and_holds_nobody_up(channel, relay, messages):
    started = time.monotonic()
    delayed, _ = services.accept("a", "b", delay_seconds=4)
    other, _ = services.accept("a", "b")
    assert ids(messages("service", 1)) == [str(other.pk)]
    assert time.monotonic() - started < 3.9  # declaring 28 queues for the first time takes long
    until(lambda: not Outbox.objects.exists())
    [message] = messages("service", 1)
    assert message.headers["id"] == str(delayed.pk)
    assert 4 <= time.monotonic() - started < 8
    assert message.delivery_info["redelivered"] is False
    assert time.time() > timezone.datetime.fromisoformat(message.headers["eta"]).timestamp() - 0.05


def test_a_delay_that_is_over_is_none(messages, relaying):
    job, _ = services.accept("a", "b", delay_seconds=1)
    time.sleep(1)
    with relaying():
        [message] = messages("service", 1, seconds=0.9)
    assert (message.headers["id"], message.headers["eta"]) == (str(job.pk), None)


# Failures


def test_rabbitmq_is_down_for_a_while(messages, proxy, run_relay):
    way = proxy("CELERY_BROKER_URL")
    expected = accept(5)
    way.refuse()
    process = run_relay(CELERY_BROKER_URL=way.url)
    until(lambda: process.has_logged("Connection refused"))
    expected += accept(5)
    way.accept()
    assert ids(messages("service", 10)) == expected
    until(lambda: not Outbox.objects.exists())
    way.refuse()
    expected = accept(3)
    until(lambda: process.log.read_text().count("Trying again") > 1)
    way.accept()
    assert ids(messages("service", 3)) == expected
    until(lambda: not Outbox.objects.exists())
    assert not messages("service")
    assert process.stop() == 0


def test_an_idle_relay_notices_that_its_connection_is_gone(messages, proxy, use_broker, relaying):
    way = proxy("CELERY_BROKER_URL")
    use_broker(way.url)
    with relaying() as relay:
        until(lambda: relay._sender._connection and relay._sender._connection.connected)
        before = relay._sender._connection
        way.cut()
        until(lambda: relay._sender._connection not in (None, before))
        time.sleep(0.1)
        started = time.monotonic()
        accept(1)
        messages("service", 1)
        assert time.monotonic() - started < 0.4  # without the pause after an error


def test_a_relay_that_is_killed_before_the_confirmation_loses_nothing(messages, proxy, run_relay):
    way = proxy("CELERY_BROKER_URL")
    process = run_relay(CELERY_BROKER_URL=way.url)
    [first] = accept(1)
    assert ids(messages("service", 1)) == [first]
    until(lambda: not Outbox.objects.exists())
    way.hush("up")  # the batch does not even arrive
    expected = accept(20)
    with connection.cursor() as cursor:
        locked = "SELECT FROM jobs_outbox FOR UPDATE SKIP LOCKED LIMIT 1"
        until(lambda: cursor.execute(locked) or not cursor.fetchall())
    process.kill()
    assert Outbox.objects.count() == 20
    way.close()
    run_relay()
    assert ids(messages("service", 20)) == expected
    until(lambda: not Outbox.objects.exists())


def test_a_relay_that_is_killed_before_it_deletes_sends_again(messages, proxy, run_relay):
    way = proxy("CELERY_BROKER_URL")
    process = run_relay(CELERY_BROKER_URL=way.url)
    until(lambda: accept(1) and messages("service"))
    until(lambda: not Outbox.objects.exists())
    messages("service")
    way.hush("down")  # the batch arrives, its confirmation does not
    with transaction.atomic():
        expected = accept(20)
    assert ids(messages("service", 20)) == expected
    process.kill()
    way.close()
    run_relay()
    assert ids(messages("service", 20)) == expected
    until(lambda: not Outbox.objects.exists())


def test_relays_under_fire_lose_nothing(messages, proxy, run_relay):
    """Killed and cut off again and again while jobs come in."""
    way = proxy("CELERY_BROKER_URL")
    found = Counter()
    expected = []
    process = run_relay(CELERY_BROKER_URL=way.url)
    for number in range(4):
        until(lambda: ids(messages("service")) or found or accept(1))
        expected += accept(60)
        if number % 2:
            way.cut()
        else:
            process.kill()
            process = run_relay(CELERY_BROKER_URL=way.url)
        expected += accept(60)
        found.update(ids(messages("service")))
    until(lambda: not Outbox.objects.exists(), 20)
    found.update(ids(messages("service")))
    assert found.keys() >= set(expected)


def test_two_relays_send_nothing_twice(messages, run_relay, length):
    first, second = run_relay(), run_relay()
    until(lambda: accept(1) and len(relays()) == 2)
    until(lambda: not Outbox.objects.exists())
    messages("service")
    expected = set(accept(600))
    found = ids(messages("service", 600))
    assert set(found) == expected
    until(lambda: not Outbox.objects.exists())
    assert not messages("service")
    assert [process.log.read_text().count("RabbitMQ has") > 0 for process in (first, second)] == [True, True]


def relays():
    with connection.cursor() as cursor:
        cursor.execute("SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'relay@%'")
        return cursor.fetchall()


def test_postgresql_restarts(messages, proxy, run_relay):
    way = proxy("DATABASE_URL")
    database = f"{way.url.rpartition('/')[0]}/{connection.settings_dict['NAME']}"
    process = run_relay(DATABASE_URL=database)
    expected = accept(3)
    assert ids(messages("service", 3)) == expected
    until(lambda: not Outbox.objects.exists())  # or they would be sent again, as they should
    way.refuse()
    until(lambda: process.has_logged("PostgreSQL fails"))
    expected = accept(3)
    way.accept()
    assert ids(messages("service", 3)) == expected
    until(lambda: not Outbox.objects.exists())
    # And it listens again, on its new connection.
    started = time.monotonic()
    for _ in range(3):
        accept(1)
        messages("service", 1)
    assert time.monotonic() - started < 2
    assert process.stop() == 0


def test_a_frozen_rabbitmq_holds_the_relay_up_for_seconds_only(messages, proxy, run_relay, systemd):
    way = proxy("CELERY_BROKER_URL")
    process = run_relay(CELERY_BROKER_URL=way.url, NOTIFY_SOCKET=systemd.address)
    [first] = accept(1)
    assert ids(messages("service", 1)) == [first]
    until(lambda: not Outbox.objects.exists())
    way.hush()
    expected = accept(1)
    started = time.monotonic()
    until(lambda: process.has_logged("did not take the task"))
    assert 2.5 < time.monotonic() - started < 6
    pings = systemd.said().count("WATCHDOG=1")
    until(lambda: systemd.said().count("WATCHDOG=1") > pings)
    way.speak()
    assert set(ids(messages("service", 1))) == set(expected)
    until(lambda: not Outbox.objects.exists())


def test_systemd_is_told(run_relay, systemd, messages):
    process = run_relay(NOTIFY_SOCKET=systemd.address)
    until(lambda: "READY=1" in systemd.said())
    until(lambda: systemd.said().count("WATCHDOG=1") >= 2)
    accept(2)
    messages("service", 2)
    until(lambda: "STATUS=2 tasks sent" in systemd.said())
    assert process.stop() == 0
    assert systemd.said()[-1] == "STOPPING=1"


def test_a_relay_that_waits_for_everything_is_ready_and_can_be_stopped(run_relay, systemd):
    places = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "CELERY_BROKER_URL": "amqp://127.0.0.1:1"}
    process = run_relay(NOTIFY_SOCKET=systemd.address, **places)
    until(lambda: "READY=1" in systemd.said())
    until(lambda: any(said.startswith("STATUS=PostgreSQL fails") for said in systemd.said()))
    started = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - started < 2


def test_the_log_names_the_job(run_relay, messages):
    process = run_relay()
    [job] = accept(1)
    until(lambda: process.has_logged("RabbitMQ has adding_task"))
    [line] = [line for line in process.logs() if "RabbitMQ has" in line["message"]]
    assert (line["job"], line["level"], line["logger"]) == (job, "INFO", "jobs.relay")
    assert line["time"]


def test_an_idle_relay_asks_once_a_second(relaying, django_assert_max_num_queries, monkeypatch):
    turns = []
    with relaying() as relay:
        until(lambda: relay._sender._connection)
        monkeypatch.setattr(relay, "send", lambda send=relay.send: turns.append(1) or send())
        time.sleep(2.2)
    assert 2 <= len(turns) <= 4  # the last one because it was told to stop


# Findings 1 and 2: what a publish with confirmations does when RabbitMQ freezes.


def test_a_publish_to_a_frozen_rabbitmq_ends_in_time(slow_broker, stopwatch):
    sender = Sender()
    sender.send(outbox(), lambda message: None)
    slow_broker.hush()
    started = stopwatch()
    with pytest.raises(PublishError, match="timed out"):
        sender.send(outbox(), lambda message: None)
    assert stopwatch() - started < 1
    with pytest.raises(PublishError):  # nor does the next one, which has to connect
        sender.send(outbox(), lambda message: None)
    assert stopwatch() - started < 2.5


def test_the_bounds_of_a_publish():
    assert broker.CONFIRM_SECONDS == 3
    assert broker.BOUNDS["read_timeout"] == broker.BOUNDS["write_timeout"] == 4
    assert configured.CELERY_BROKER_CONNECTION_TIMEOUT == 4


def test_a_late_confirmation_is_not_taken_for_another_messages(slow_broker, messages):
    sender = Sender()
    taken = []
    sender.send(outbox(), taken.append)
    slow_broker.hush("down")
    with pytest.raises(PublishError):
        sender.send(outbox(), taken.append)
    # Now the first one's confirmation comes, and the second one does not even reach RabbitMQ.
    slow_broker.speak()
    slow_broker.hush("up")
    with pytest.raises(PublishError):
        sender.send(outbox(), taken.append)
    assert len(taken) == 1
    assert len(messages("service")) == 2


def test_after_an_error_the_connection_is_never_used_again(slow_broker):
    sender = Sender()
    sender.send(outbox(), lambda message: None)
    before = sender._connection
    slow_broker.cut()
    with pytest.raises(PublishError):
        sender.send(outbox(), lambda message: None)
    assert sender._connection is None
    assert before._connection is None
    sender.send(outbox(), lambda message: None)
    assert sender._connection is not before


def test_each_confirmation_belongs_to_its_message():
    sender = Sender()
    sender._pending, sender._done, sender._refused = dict(enumerate("abcdef", 1)), [], []
    sender._on_ack(2, False)
    sender._on_nack(3, False)
    sender._on_ack(5, True)
    assert (sender._done, sender._refused, sender._pending) == (["b", "a", "d", "e"], ["c"], {6: "f"})


def test_a_message_that_rabbitmq_refuses_is_no_message_that_it_has(channel):
    """A queue with a limit, and reject-publish: RabbitMQ says no."""
    name = "full"
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
    taken = []
    try:
        sender = Sender()
        queue = app.amqp.queues["service"]
        limited = type(queue)(name, type(queue.exchange)(""), name, queue_arguments=arguments)
        rows = [Outbox(task="x", task_id=str(number), queue=limited) for number in range(30)]
        with pytest.raises(PublishError, match="refused"):
            sender.send(rows, taken.append)
        # RabbitMQ's count is a moment old.
        until(lambda: 0 < len(taken) == channel.queue_declare(name, passive=True).message_count < 30)
    finally:
        channel.queue_delete(name)


def test_a_message_without_a_queue_is_not_confirmed(channel):
    sender = Sender()
    sender.send(outbox(), lambda message: None)
    channel.queue_delete("service")
    with pytest.raises(PublishError, match="NO_ROUTE"):
        sender.send(outbox(), lambda message: None)
    # It is another project's to make.
    with pytest.raises(PublishError, match="NOT_FOUND"):
        sender.send(outbox(), lambda message: None)
    declare_queues()
    sender.send(outbox(), lambda message: None)


def test_a_batch_whose_confirmations_are_cut_off_deletes_what_was_confirmed(slow_broker, messages):
    accept(3)
    one = relay.Relay()
    real = one._sender._on_ack

    def first_only(number, multiple):
        if 1 in one._sender._pending:
            real(1, False)

    one._sender._on_ack = first_only
    with pytest.raises(PublishError):
        one.send()
    assert Outbox.objects.count() == 2


# The sweeper


def age(job, seconds):
    Job.objects.filter(pk=job).update(due_at=timezone.now() - timedelta(seconds=seconds))


def test_who_waits_for_too_long_is_sent_again_and_again_less_often(settings):
    settings.RESEND_SECONDS = 300
    [job] = accept(1)
    Outbox.objects.all().delete()
    seen = []
    for minutes in (4, 6, 9, 11, 19, 21, 39, 41):
        age(job, minutes * 60)
        seen.append((minutes, relay.sweep()))
        assert relay.sweep() == 0
        Outbox.objects.all().delete()
    assert [minutes for minutes, count in seen if count] == [6, 11, 21, 41]
    assert Job.objects.get().resends == 4


def test_who_is_in_the_outbox_or_has_ended_or_is_not_due_is_not_sent_again():
    in_outbox, ended, later, waiting = accept(4)
    Outbox.objects.exclude(task_id=in_outbox).delete()
    services.end(ended, 1, Job.State.DONE)
    age(in_outbox, 9999)
    age(ended, 9999)
    age(waiting, 9999)
    age(later, -9999)
    assert relay.sweep() == 1
    assert set(Outbox.objects.values_list("task_id", flat=True)) == {in_outbox, waiting}


def test_two_sweepers_at_once_send_a_job_once():
    for job in accept(50):
        age(job, 400)
    Outbox.objects.all().delete()
    together = threading.Barrier(4)
    counts = []

    def sweep():
        together.wait()
        counts.append(relay.sweep())
        connection.close()

    threads = [threading.Thread(target=sweep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == Outbox.objects.count() == 50


def test_a_resent_message_is_the_same_message(messages, run_relay):
    job, _ = services.accept("a", "b", work_seconds=1)
    Outbox.objects.all().delete()
    age(job.pk, 10)
    run_relay(SWEEP_SECONDS="0.1", RESEND_SECONDS="2")
    first = messages("service", 1)[0]
    assert (first.headers["id"], first.headers["attempt"]) == (str(job.pk), 1)
    assert json.loads(first.body)[:2] == [["a", "b"], {"seconds": 1}]


def test_who_could_not_be_sent_for_long_is_not_sent_twice(messages, relaying):
    [job] = accept(1)
    age(job, 9999)
    Outbox.objects.update(due_at=timezone.now() - timedelta(seconds=9999))
    with relaying():
        messages("service", 1)
        until(lambda: not Outbox.objects.exists())
    assert relay.sweep() == 0
