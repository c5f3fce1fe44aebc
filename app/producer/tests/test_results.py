"""A result is stored once, and written to the results file as one line."""

import threading
from datetime import UTC, datetime

import pytest
from celery.states import SUCCESS
from django.db import IntegrityError, connection
from django.utils import timezone

from jobs import results
from jobs.models import Job
from producer.celery import app


def finish_task(job, result="a es b"):
    app.backend.store_result(str(job.pk), result, SUCCESS)


@pytest.mark.django_db(transaction=True)
def test_two_collectors_at_once_write_one_line(settings):
    jobs = [Job.objects.create(first="a", second="b") for _ in range(10)]
    together = threading.Barrier(4)

    def collect(job):
        mine = Job.objects.get(pk=job.pk)
        together.wait()
        results.collect(mine)
        assert mine.state == Job.State.DONE
        connection.close()

    for job in jobs:
        finish_task(job)
        threads = [threading.Thread(target=collect, args=(job,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    lines = settings.RESULTS_FILE.read_text().splitlines()
    assert sorted(line.split("\t")[1] for line in lines) == sorted(str(job.pk) for job in jobs)


@pytest.mark.django_db
def test_a_job_ends_once():
    job = Job.objects.create(first="a", second="b")
    same = Job.objects.get()
    assert job.finish(Job.State.FAILED, reason="broken")
    assert not same.finish(Job.State.DONE, result="a es b")
    assert (same.state, same.result, same.reason) == (Job.State.FAILED, "", "broken")


@pytest.mark.django_db
def test_a_line_is_one_line(settings):
    job = Job.objects.create(first="tab\there", second="line\nbreak\r\\n")
    finish_task(job, "x\ty\nz")
    results.collect(job)
    lines = settings.RESULTS_FILE.read_bytes().decode().split("\n")
    assert lines == [
        f"{job.finished_at.isoformat()}\t{job.pk}\ttab\\there\tline\\nbreak\\r\\\\n\tx\\ty\\nz",
        "",
    ]


@pytest.mark.django_db
def test_lines_are_appended(settings):
    settings.RESULTS_FILE.write_text("before\n")
    for _ in range(2):
        job = Job.objects.create(first="a", second="b")
        finish_task(job)
        results.collect(job)
    lines = settings.RESULTS_FILE.read_text().splitlines()
    assert lines[0] == "before"
    assert len(lines) == 3


@pytest.mark.django_db
def test_a_file_that_cannot_be_written_costs_no_result(settings, caplog):
    settings.RESULTS_FILE = settings.RESULTS_FILE / "not" / "there"
    job = Job.objects.create(first="a", second="b")
    finish_task(job)
    results.collect(job)
    assert Job.objects.get().state == Job.State.DONE
    assert results.line(job) in caplog.text


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("constraint", "values"),
    [
        ("job_state_is_known", {"state": "odd", "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("job_finished_unless_waiting", {"state": "done"}),
        ("job_finished_unless_waiting", {"state": "waiting", "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("job_failed_has_reason", {"state": "failed", "finished_at": datetime(2026, 1, 1, tzinfo=UTC)}),
    ],
)
def test_a_row_that_means_nothing_is_refused(constraint, values):
    with pytest.raises(IntegrityError, match=constraint):
        Job.objects.create(first="a", second="b", **values)


def test_clocks_that_differ_show_no_negative_time():
    now = timezone.now()
    assert Job(created_at=now, finished_at=now - timezone.timedelta(seconds=1)).seconds == 0
    assert Job(created_at=now).seconds is None
