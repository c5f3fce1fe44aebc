"""The result comes home: reported by a task, stored in the row, and written into the results file, once."""

import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from jobs import results, services
from jobs.models import Job, ParkedTask
from producer.celery import app

from .conftest import celery, declare_queues, until

pytestmark = pytest.mark.django_db(transaction=True)

State = Job.State
STARTED, FINISHED = datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 12, 0, 1, tzinfo=UTC)


@pytest.fixture
def alone(monkeypatch):
    """No worker is on this host, which would file what the test wants to."""
    monkeypatch.setattr(results, "host", lambda: "here")


def accept(first="a", second="b"):
    return services.accept(first, second)[0]


def report(job, state="done", *, attempt=1, **values):
    """Report as the service does."""
    result, reason = ("a es b", "") if state == "done" else (None, "ValueError: no")
    values = {"result": result, "reason": reason, "worker": "worker1"} | values
    times = {"started_at": STARTED.isoformat(), "finished_at": FINISHED.isoformat()}
    job = getattr(job, "pk", job)
    app.send_task("job_ended", kwargs={"id": str(job), "attempt": attempt, "state": state} | times | values)


def ended(job):
    """The job, as soon as it has ended."""

    def look():
        job.refresh_from_db()
        return not job.waiting

    until(look)
    return job


def lines(file):
    return file.read_text().split("\n")[:-1] if file.exists() else []


def of(job, file):
    """How many lines the file has for a job."""
    return sum(one.split("\t")[1:2] == [str(job.pk)] for one in lines(file))


def done(**values):
    """A job that is done and not filed."""
    values = {"first": "a", "second": "b", "state": State.DONE, "result": "a es b"} | values
    return Job.objects.create(**{"finished_at": timezone.now(), "filer": results.host()} | values)


# With a worker


def test_a_result_comes_home(home):
    job = accept()
    report(job)
    ended(job)
    assert (job.state, job.result, job.reason, job.worker) == (State.DONE, "a es b", "", "worker1")
    assert (job.started_at, job.finished_at) == (STARTED, FINISHED)
    until(lambda: of(job, home.results_file))
    assert results.line(job) in lines(home.results_file)
    until(lambda: Job.objects.get().filed)


def test_a_failure_comes_home_and_is_not_filed(home):
    job, other = accept(), accept()
    report(job, "failed")
    report(other)
    ended(job)
    ended(other)
    assert (job.state, job.result, job.reason) == (State.FAILED, "", "ValueError: no")
    until(lambda: of(other, home.results_file))
    assert not of(job, home.results_file)


def test_reports_that_come_twice_and_out_of_order(home):
    job = accept()
    report(job, "failed")
    ended(job)
    services.retry(job)
    report(job, "failed")  # the first attempt's once more
    report(job, attempt=2)
    report(job, attempt=2)
    report(job, "failed", attempt=2)
    last = accept()
    report(last)
    ended(last)
    until(lambda: of(last, home.results_file))
    job.refresh_from_db()
    assert (job.state, job.attempt, job.result) == (State.DONE, 2, "a es b")
    assert of(job, home.results_file) == 1


def test_a_late_success_of_an_earlier_attempt_counts(home):
    job = accept()
    report(job, "failed")
    ended(job)
    services.retry(job)
    report(job, attempt=1)
    assert ended(job).state == State.DONE


def test_a_report_about_nobody_is_no_trouble(home, length):
    report(uuid.uuid4())
    job = accept()
    report(job)
    ended(job)
    assert length("parked") == 0


@pytest.mark.parametrize("nonsense", [{"state": "odd"}, {"state": "done", "started_at": "soon"}])
def test_a_report_that_makes_no_sense_becomes_a_dead_letter(home, nonsense):
    job = accept()
    report(job, **nonsense)
    until(ParkedTask.objects.exists)
    parked = ParkedTask.objects.get()
    assert (parked.task, parked.queue) == ("job_ended", "results")
    assert parked.kwargs["id"] == str(job.pk)
    job.refresh_from_db()
    assert job.waiting


def test_one_report_that_cannot_be_stored_takes_no_neighbour_with_it(results_worker):
    jobs = [accept() for _ in range(20)]
    for number, job in enumerate(jobs):
        report(job, result="a\0b" if number == 7 else "fine")
    with results_worker():  # to whom they come as one batch
        for job in jobs[:7] + jobs[8:]:
            assert ended(job).result == "fine"
        until(ParkedTask.objects.exists)
    assert ParkedTask.objects.get().kwargs is None  # nor can it be stored as a dead letter's arguments
    jobs[7].refresh_from_db()
    assert jobs[7].waiting


BREAKS = """
    CREATE FUNCTION breaks() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'this row is broken' USING ERRCODE = 'internal_error'; END $$;
    CREATE TRIGGER breaks BEFORE UPDATE ON jobs_job FOR EACH ROW WHEN (NEW.result = 'breaks') EXECUTE FUNCTION breaks()
"""


def test_an_error_within_postgresql_takes_no_neighbour_with_it_either(results_worker):
    jobs = [accept() for _ in range(20)]
    with connection.cursor() as cursor:
        cursor.execute(BREAKS)
        try:
            for number, job in enumerate(jobs):
                report(job, result="breaks" if number == 7 else "fine")
            with results_worker():
                for job in jobs[:7] + jobs[8:]:
                    assert ended(job).result == "fine"
                until(ParkedTask.objects.exists)
        finally:
            cursor.execute("DROP FUNCTION breaks CASCADE")
    jobs[7].refresh_from_db()
    assert jobs[7].waiting


def test_what_a_newer_service_says_besides_is_ignored(home):
    job = accept()
    report(job, mood="good")
    assert ended(job).state == State.DONE


def test_a_result_that_is_no_text_becomes_one(home):
    job = accept()
    report(job, result={"a": [1]})
    assert ended(job).result == "{'a': [1]}"


def test_postgresql_is_away_for_a_while(run, proxy, tmp_path, length):
    way = proxy("DATABASE_URL")
    database = f"{way.url.rpartition('/')[0]}/{connection.settings_dict['NAME']}"
    options = {"DATABASE_URL": database, "STATE_DIRECTORY": str(tmp_path)}
    worker = run("producer", "results", "--concurrency", "1", via=celery, **options)
    first, second = accept(), accept()
    report(first)
    ended(first)
    way.refuse()
    report(second)
    until(lambda: worker.has_logged("PostgreSQL fails"))
    way.accept()
    assert ended(second).state == State.DONE
    until(lambda: of(second, tmp_path / "results.txt"))
    assert length("results") == length("parked") == 0


def test_a_member_of_postgresql_that_takes_no_writes_is_as_one_that_is_away(run, proxy, tmp_path, length):
    way = proxy("DATABASE_URL")
    name = connection.settings_dict["NAME"]
    options = {"DATABASE_URL": f"{way.url.rpartition('/')[0]}/{name}", "STATE_DIRECTORY": str(tmp_path)}
    worker = run("producer", "results", "--concurrency", "1", via=celery, **options)
    job = accept()
    with connection.cursor() as cursor:
        cursor.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        try:
            way.refuse()
            way.accept()
            report(job)
            until(lambda: worker.has_logged("read-only transaction"))
        finally:
            cursor.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    assert ended(job).state == State.DONE
    assert length("results") == length("parked") == 0


POINTS = ("begin", "end", "write", "file")


def test_workers_are_killed_on_the_way(run, tmp_path, consumers, length):
    """Before and after the commit, after the line was written, after it was marked: no line is lost or twice."""
    for point in POINTS:
        options = {"KILL_MARK": str(tmp_path / point), "KILL_AT": point}
        hostname = ("--hostname", f"{point}@worker1", "--concurrency", "1", "--include", "tests.killer")
        run("producer", "results", *hostname, via=celery, **options)

    def dead():
        return sum((tmp_path / point).exists() for point in POINTS)

    # A report of another test, which was not acknowledged when its worker was killed, may come to one of them.
    until(lambda: consumers("results") + dead() >= len(POINTS), 90)
    jobs = []

    def killed():
        jobs.append(accept())
        report(jobs[-1])
        time.sleep(0.05)
        return dead() == len(POINTS)

    until(killed, 20)
    run("producer", "results", "--concurrency", "1", via=celery)
    until(lambda: not Job.objects.exclude(filed=True).exists(), 20)
    assert [of(job, tmp_path / "results.txt") for job in jobs] == [1] * len(jobs)
    until(lambda: length("results") == 0)
    assert not ParkedTask.objects.exists()


def test_a_new_worker_files_what_the_last_one_left(run, tmp_path):
    job, foreign = done(), done(filer="another")
    run("producer", "results", "--concurrency", "1", via=celery, STATE_DIRECTORY=str(tmp_path))
    until(lambda: Job.objects.get(pk=job.pk).filed, 20)
    assert of(job, tmp_path / "results.txt") == 1
    assert not of(foreign, tmp_path / "results.txt")


def test_a_worker_that_stops_files_what_is_left(run, tmp_path):
    """Its host may never start another."""
    first = done()
    worker = run("producer", "results", "--concurrency", "1", via=celery, STATE_DIRECTORY=str(tmp_path))
    until(lambda: Job.objects.get(pk=first.pk).filed, 20)
    last = done()
    assert worker.stop() == 0
    assert of(last, tmp_path / "results.txt") == 1
    assert Job.objects.get(pk=last.pk).filed


def test_a_worker_starts_before_anybody_has_declared_anything(run, channel):
    channel.queue_delete("service")
    channel.exchange_delete("service")
    channel.queue_delete("results")
    try:
        worker = run("producer", "results", "--concurrency", "1", via=celery)
        until(lambda: worker.has_logged(" ready."))
        assert {line["level"] for line in worker.logs()} == {"INFO"}
    finally:
        declare_queues()


def test_the_worker_logs_the_job(home):
    job = accept()
    report(job)
    ended(job)
    until(lambda: [line for line in home.logs() if line.get("job") == str(job.pk) and line["logger"] == "jobs.tasks"])


def test_the_way_from_the_form_and_back(worker):
    """Outbox, relay, RabbitMQ, a worker, RabbitMQ, our worker, PostgreSQL."""
    jobs = [accept(str(number)) for number in range(20)]
    for job in jobs:
        assert ended(job).result == f"{job.first} es b"
        assert job.worker == "worker1"
        assert job.created_at <= job.started_at <= job.finished_at


# The file


@pytest.mark.usefixtures("alone")
def test_a_line_is_one_line(settings):
    job = done(first="tab\there", second="line\nbreak\r\\n", result="x\ty\nz")
    results.file_all()
    assert settings.RESULTS_FILE.read_bytes().decode() == (
        f"{job.finished_at.isoformat()}\t{job.pk}\ttab\\there\tline\\nbreak\\r\\\\n\tx\\ty\\nz\n"
    )


@pytest.mark.usefixtures("alone")
def test_lines_are_appended_once(settings):
    settings.RESULTS_FILE.write_text("before\n")
    jobs = [done(finished_at=FINISHED + timedelta(seconds=number)) for number in range(120)]
    results.file_all()
    results.file_all()
    assert lines(settings.RESULTS_FILE) == ["before", *map(results.line, jobs)]
    assert Job.objects.filter(filed=True).count() == 120


@pytest.mark.usefixtures("alone")
def test_many_who_file_at_once_write_each_line_once(settings, monkeypatch):
    look = results._tail
    monkeypatch.setattr(results, "_tail", lambda file: (look(file), time.sleep(0.05))[0])  # a slow disk
    jobs = [done() for _ in range(50)]
    together = threading.Barrier(4)

    def file():
        together.wait()
        results.file_all()
        connection.close()

    threads = [threading.Thread(target=file) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(line.split("\t")[1] for line in lines(settings.RESULTS_FILE)) == sorted(str(job.pk) for job in jobs)


@pytest.mark.usefixtures("alone")
def test_a_line_that_was_written_but_not_marked_is_found(settings):
    jobs = [done() for _ in range(3)]
    settings.RESULTS_FILE.write_text("x\n" * 1000 + results.line(jobs[1]) + "\n")
    results.file_all()
    assert [of(job, settings.RESULTS_FILE) for job in jobs] == [1, 1, 1]


@pytest.mark.usefixtures("alone")
def test_half_a_line_is_replaced(settings):
    first, second = done(), done()
    settings.RESULTS_FILE.write_text(results.line(first) + "\n" + results.line(second)[:-3])
    results.file_all()
    assert sorted(lines(settings.RESULTS_FILE)) == sorted([results.line(first), results.line(second)])


@pytest.mark.usefixtures("alone")
def test_an_id_among_the_words_is_not_the_job(settings):
    job = done()
    other = done(first=str(job.pk), filed=True)
    settings.RESULTS_FILE.write_text(results.line(other) + "\n")
    results.file_all()
    assert lines(settings.RESULTS_FILE) == [results.line(other), results.line(job)]


@pytest.mark.usefixtures("alone")
def test_a_file_that_cannot_be_written_costs_no_result(settings, tmp_path, caplog):
    settings.RESULTS_FILE = tmp_path / "not" / "there"
    job = done()
    results.file_all()
    assert "Could not append" in caplog.text
    assert not Job.objects.get().filed
    settings.RESULTS_FILE = tmp_path / "results.txt"
    results.file_all()
    assert of(job, settings.RESULTS_FILE) == 1


@pytest.mark.usefixtures("alone")
def test_the_disk_is_full_in_the_middle(settings, monkeypatch):
    """A limit on the size of files is as good as a full disk."""
    import resource
    import signal

    jobs = [done(finished_at=FINISHED + timedelta(seconds=number)) for number in range(5)]
    size = len(results.line(jobs[0])) + 1
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size * 5 // 2, old[1]))
        results.file_all()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert settings.RESULTS_FILE.stat().st_size == size * 5 // 2
    assert not Job.objects.filter(filed=True).exists()
    results.file_all()
    assert lines(settings.RESULTS_FILE) == list(map(results.line, jobs))


def test_the_stream_has_all_that_is_done_the_oldest_first(monkeypatch):
    monkeypatch.setattr(results, "CHUNK", 3)
    jobs = [done(finished_at=FINISHED + timedelta(seconds=number // 4)) for number in range(20)]
    accept()
    expected = [results.line(job) for job in sorted(jobs, key=lambda job: (job.finished_at, job.pk))]
    assert b"".join(results.stream()).decode().split("\n") == [*expected, ""]
    since = FINISHED + timedelta(seconds=3)
    assert b"".join(results.stream(since)).decode().split("\n") == [*expected[12:], ""]


def test_the_stream_of_nothing_is_empty():
    assert list(results.stream()) == []


# The message


def test_the_message_of_a_report_is_json_as_the_service_sends_it(messages):
    report(uuid.uuid4())
    [message] = messages("results", 1)
    assert json.loads(message.body)[1].keys() == {
        *("id", "attempt", "state", "result", "reason", "worker", "started_at", "finished_at")
    }
