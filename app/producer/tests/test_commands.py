"""roundtrip, call and jobs: what they print, and when they fail."""

import json
import uuid

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from jobs import results, services
from jobs.models import Job, Outbox, ParkedTask

from .conftest import REFUSED, until

pytestmark = pytest.mark.django_db(transaction=True)

State = Job.State


def run(capsys, *command, fails=False, **options):
    """What a command reports in its one line."""
    if fails:
        with pytest.raises(CommandError) as error:
            call_command(*command, **options)
        assert error.value.returncode == 1
    else:
        call_command(*command, **options)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    report = json.loads(lines[0])
    assert report["ok"] is not fails
    return report


# roundtrip


@pytest.mark.usefixtures("worker")
def test_roundtrip(live_server, capsys):
    report = run(capsys, "roundtrip", url=live_server.url + "/")
    job = Job.objects.get()
    assert report.pop("seconds") > 0
    assert report == {"ok": True, "job": str(job.pk), "result": f"{job.first} es {job.second}", "worker": "worker1"}
    assert job.state == State.DONE


@pytest.mark.usefixtures("worker")
def test_roundtrip_uses_no_proxy(live_server, capsys, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{REFUSED}")
    run(capsys, "roundtrip", url=live_server.url + "/")


def test_roundtrip_without_web_server(capsys):
    report = run(capsys, "roundtrip", url=f"http://{REFUSED}/", fails=True)
    assert report["step"] == "get the form"
    assert "refused" in report["error"]


def test_roundtrip_with_a_host_that_is_not_allowed(live_server, capsys, settings):
    settings.ALLOWED_HOSTS = ["localhost"]  # the live server allows any
    report = run(capsys, "roundtrip", url=live_server.url + "/", host="evil.example", fails=True)
    assert (report["step"], report["error"]) == ("get the form", "HTTPError: HTTP Error 400: Bad Request")


@pytest.mark.usefixtures("service", "home")
def test_roundtrip_without_relay(live_server, capsys, settings):
    settings.RESULT_WAIT_SECONDS = 0.1
    report = run(capsys, "roundtrip", url=live_server.url + "/", timeout=0.3, fails=True)
    assert report["step"] == "wait for the result"
    assert "still waiting" in report["error"]


@pytest.mark.usefixtures("relay", "service")
def test_roundtrip_whose_result_does_not_come_home(live_server, capsys):
    report = run(capsys, "roundtrip", url=live_server.url + "/", timeout=1, fails=True)
    assert report["step"] == "find the row in PostgreSQL"
    assert "did not come home" in report["error"]


@pytest.mark.usefixtures("worker")
def test_roundtrip_of_a_job_that_fails(live_server, capsys, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda count: "fail")
    report = run(capsys, "roundtrip", url=live_server.url + "/", fails=True)
    assert report["error"] == "AssertionError: the job is failed: ValueError: asked to fail"


@pytest.mark.usefixtures("worker")
def test_roundtrip_without_the_line(live_server, capsys, monkeypatch):
    monkeypatch.setattr(results, "stream", lambda since: iter([b"another job\n"]))
    report = run(capsys, "roundtrip", url=live_server.url + "/", fails=True)
    assert report["step"] == "find the line in /results.txt"
    assert "0 lines" in report["error"]


# call


@pytest.mark.usefixtures("service")
def test_call(capsys):
    report = run(capsys, "call", "adding_task", "2", "x y")
    assert (report["result"], report["worker"], report["task"]) == ("2 es x y", "worker1", "adding_task")


@pytest.mark.usefixtures("service")
def test_call_parses_json(capsys):
    assert run(capsys, "call", "adding_task", '{"a": null}', '"q"')["result"] == "{'a': None} es q"


@pytest.mark.usefixtures("service")
def test_call_of_a_task_that_fails(capsys):
    report = run(capsys, "call", "adding_task", "fail", "x", fails=True)
    assert (report["error"], report["worker"]) == ("ValueError: asked to fail", "worker1")


def test_call_without_worker(capsys):
    assert run(capsys, "call", "add", "2", "3", timeout=0.1, fails=True)["error"] == "no result within 0.1 s"


def test_call_without_broker(capsys, use_broker):
    use_broker(f"amqp://{REFUSED}")
    assert "RabbitMQ did not take the task" in run(capsys, "call", "add", "2", "3", fails=True)["error"]


def test_call_without_redis(capsys, use_redis):
    use_redis(REFUSED)
    assert "ConnectionError" in run(capsys, "call", "add", "2", "3", fails=True)["error"]


def test_call_to_a_queue_that_nobody_declared(capsys):
    assert "QueueNotFound" in run(capsys, "call", "add", "2", "3", queue="servcie", fails=True)["error"]


# jobs


def jobs(capsys, *command, fails=False):
    """The lines that it prints; or what is wrong, if it is to fail."""
    if fails:
        with pytest.raises(CommandError) as error:
            call_command("jobs", *command)
        return str(error.value)
    call_command("jobs", *command)
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def three():
    """A job that waits, one that is done, one that failed."""
    waiting, done, failed = (services.accept(word, "b")[0] for word in ("wait", "done", "fail"))
    services.end(done.pk, 1, State.DONE, result="done es b", worker="worker1")
    services.end(failed.pk, 1, State.FAILED, reason="ValueError: no")
    Outbox.objects.all().delete()
    return waiting, done, failed


def test_jobs_lists_the_newest_first(capsys, three):
    lines = jobs(capsys, "list")
    assert [line.split()[0] for line in lines] == [str(job.pk) for job in reversed(three)]
    assert lines[0].endswith("failed   'fail' + 'b'  ValueError: no")
    assert lines[1].endswith("done     'done' + 'b'  done es b")
    assert len(jobs(capsys, "list", "--limit", "2")) == 2


def test_jobs_are_found(capsys, three):
    waiting, done, failed = three
    assert jobs(capsys, "list", "--state", "failed")[0].startswith(str(failed.pk))
    assert jobs(capsys, "list", "--search", "DON")[0].startswith(str(done.pk))
    assert jobs(capsys, "list", "--search", str(waiting.pk)[:10])[0].startswith(str(waiting.pk))
    assert jobs(capsys, "list", "--search", "nobody") == []


def test_jobs_as_json(capsys, three):
    [line] = jobs(capsys, "list", "--state", "done", "--json")
    shown = json.loads(line)
    assert (shown["id"], shown["state"], shown["result"], shown["reason"]) == (
        str(three[1].pk),
        "done",
        "done es b",
        "",
    )


def test_a_job_is_shown(capsys, three):
    lines = jobs(capsys, "show", str(three[2].pk))
    assert "reason          ValueError: no" in lines
    assert not [line for line in lines if line.startswith("result")]
    assert json.loads(jobs(capsys, "show", str(three[2].pk), "--json")[0])["attempt"] == 1
    unknown = str(uuid.uuid4())
    assert jobs(capsys, "show", unknown, fails=True) == f"There is no job {unknown}."


def test_a_job_is_retried(capsys, three):
    _, done, failed = three
    [line] = jobs(capsys, "retry", str(failed.pk))
    assert line.startswith(str(failed.pk))
    assert "waiting" in line
    assert Outbox.objects.get().headers["attempt"] == 2
    unknown = str(uuid.uuid4())
    error = jobs(capsys, "retry", str(done.pk), unknown, fails=True)
    assert f"There is no job {unknown}." in error
    assert f"Job {done.pk} is done" in error
    assert "Which?" in jobs(capsys, "retry", fails=True)


def test_all_that_failed_are_retried(capsys, three):
    assert len(jobs(capsys, "retry", "--state", "failed")) == 1
    assert jobs(capsys, "retry", "--state", "failed") == []
    assert jobs(capsys, "retry", "--state", "parked") == []
    assert Outbox.objects.count() == 1


def test_parked_tasks_are_listed_and_retried(capsys):
    values = {"task_id": "x", "kwargs": {}, "headers": {}, "queue": "service", "reason": "It broke.", "body": b""}
    parked = ParkedTask.objects.create(**values, task="other", args=[1], digest="1")
    unreadable = ParkedTask.objects.create(**values, digest="2")
    lines = jobs(capsys, "parked")
    assert [line.split()[0] for line in lines] == [str(unreadable.pk), str(parked.pk)]
    assert lines[1].endswith("service  other  It broke.")
    assert json.loads(jobs(capsys, "parked", "--json")[1])["args"] == [1]
    assert jobs(capsys, "retry", "--task", str(parked.pk))[0].startswith(f"{parked.pk} ")
    assert Outbox.objects.get().task == "other"
    error = jobs(capsys, "retry", "--task", str(parked.pk), str(unreadable.pk), "999999", fails=True)
    assert f"Parked task {parked.pk} was retried before" in error
    assert f"Parked task {unreadable.pk} was" in error
    assert "There is no parked task 999999." in error
    assert "sent again" in jobs(capsys, "parked")[1]


def test_the_command_line(run):
    """As an operator has it: not a stack trace, an exit status."""
    database = connection.settings_dict["NAME"]
    assert database.startswith("test_")
    process = run("manage.py", "jobs", "retry", "x")
    assert process.process.wait(20) == 2
    assert "invalid UUID value: 'x'" in process.log.read_text()
    process = run("manage.py", "jobs", "list")
    assert process.process.wait(20) == 0
    until(lambda: process.log.read_text() == "")
