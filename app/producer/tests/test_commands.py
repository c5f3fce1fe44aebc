"""roundtrip and call: what they print, and when they fail."""

import json

import pytest
from django.core.management import CommandError, call_command

from jobs.models import Job

from .conftest import REFUSED

pytestmark = pytest.mark.django_db(transaction=True)


def run(capsys, *command, fails=False, **options):
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


@pytest.mark.usefixtures("worker")
def test_roundtrip(live_server, capsys):
    report = run(capsys, "roundtrip", url=live_server.url + "/")
    job = Job.objects.get()
    assert report.pop("seconds") > 0
    assert report == {"ok": True, "job": str(job.pk), "result": f"{job.first} es {job.second}", "worker": "worker1"}


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


def test_roundtrip_without_broker(live_server, capsys, use_broker):
    use_broker(f"amqp://{REFUSED}")
    report = run(capsys, "roundtrip", url=live_server.url + "/", fails=True)
    assert (report["step"], report["error"]) == ("post the form", "HTTPError: HTTP Error 503: Service Unavailable")


def test_roundtrip_without_worker(live_server, capsys, settings):
    settings.RESULT_WAIT_SECONDS = 0.1
    report = run(capsys, "roundtrip", url=live_server.url + "/", timeout=0.3, fails=True)
    assert report["step"] == "wait for the result"
    assert "still waiting" in report["error"]


@pytest.mark.usefixtures("worker")
def test_roundtrip_without_the_line_in_the_file(live_server, capsys, monkeypatch, settings):
    settings.RESULTS_FILE.write_text("another job\n")
    monkeypatch.setattr("jobs.results.append", lambda job: None)
    report = run(capsys, "roundtrip", url=live_server.url + "/", fails=True)
    assert report["step"] == "find the line in the results file"
    assert "0 lines" in report["error"]


@pytest.mark.usefixtures("worker")
def test_call(capsys):
    report = run(capsys, "call", "adding_task", "2", "x y")
    assert (report["result"], report["worker"], report["task"]) == ("2 es x y", "worker1", "adding_task")


@pytest.mark.usefixtures("worker")
def test_call_parses_json(capsys):
    assert run(capsys, "call", "adding_task", '{"a": null}', '"q"')["result"] == "{'a': None} es q"


@pytest.mark.usefixtures("worker")
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
