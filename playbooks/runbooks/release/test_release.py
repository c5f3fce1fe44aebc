"""A release under load; and releases that are bad, each in another way."""

import re
import time

import pytest

from verify import BASE, FIRST, TOPOLOGY, contract, eventually, failure, manage, node, playbook, visitor
from verify.releases import changed, running
from verify.stream import Stream, assert_nothing_lost
from verify.visits import Visits

RELEASE, ROLLBACK = "runbooks/release/playbook.yml", "runbooks/rollback/playbook.yml"
LOG = "/var/log/quintet-releases.log"
HOME = "jobs/templates/jobs/index.html"
MARK = "<!-- another release -->"
BAD = {
    "does not start": (
        "service",
        {
            "service/celery.py": (
                "app.autodiscover_tasks()\n",
                "app.autodiscover_tasks()\n\n\n@signals.worker_init.connect(weak=False)\n"
                'def refuse(**kwargs):\n    raise SystemExit("this release does not start")\n',
            )
        },
        "this release does not start",
        "all is as it was",
    ),
    "is not healthy": (
        "producer",
        {"jobs/probes.py": ("def live(request):\n", 'def live(request):\n    raise RuntimeError("it is ill")\n')},
        "is not healthy: /healthz/live: ",
        "was not switched to",
    ),
    "fails the round trip": (
        "service",
        {"joining/tasks.py": ('f"{first} es {second}"', 'f"{first} is {second}"')},
        "compare the result",
        "all is as it was",
    ),
}


def release(project, extra=None):
    return playbook(RELEASE, extra={"release_project": project} | (extra or {}))


def words(result):
    """What a playbook said, in one line: its long lines are folded."""
    return " ".join(result.stdout.split())


@pytest.fixture(autouse=True)
def as_before():
    """What ran before runs afterwards."""
    before = {project: running(project) for project in ("producer", "service")}
    yield before
    for project, name in before.items():
        if running(project) != name:
            result = playbook(ROLLBACK, extra={"rollback_project": project, "rollback_release": name})
            assert result.returncode == 0, failure(result)


def is_marked():
    return MARK in visitor().get(BASE, timeout=10).text


def test_a_release_under_load_fails_no_request_and_loses_no_job(tmp_path, as_before):
    new = changed(tmp_path, "producer", {HOME: ("{% block main %}", "{% block main %}" + MARK)})
    with Stream() as stream, Visits() as visits:
        result = release("producer", new)
        time.sleep(3)
    assert result.returncode == 0, failure(result)
    assert is_marked()
    print(f"{len(stream.answers)} jobs, {visits}")
    assert visits.failed == [], visits
    assert_nothing_lost(stream, slowest=15)
    last = node(FIRST).check_output(f"tail -n 1 {LOG}")
    assert re.fullmatch(rf"\S+Z \S+@\S+ release producer {as_before['producer']} {running('producer')} done", last), (
        last
    )
    # What runs already is no work; also where a process of it was killed and started again some time.
    worker = node(TOPOLOGY.hosts("worker")[0])
    unit = "celery-producer.service"
    worker.check_output(f"systemctl kill --signal=KILL --kill-whom=main {unit}")
    eventually(
        lambda: (
            worker.check_output(f"systemctl show --value --property=NRestarts,SubState {unit}").split()
            == ["1", "running"]
        )
    )
    again = release("producer", new)
    assert again.returncode == 0, again.stdout
    assert "there was nothing to do" in words(again)
    assert set(re.findall(r"changed=(\d+)", again.stdout)) == {"0"}


# The first is for each change.
@pytest.mark.parametrize("how", [next(iter(BAD)), *(pytest.param(how, marks=pytest.mark.slow) for how in [*BAD][1:])])
def test_a_bad_release_is_rolled_back_by_itself_and_says_why(tmp_path, as_before, how):
    project, edits, why, end = BAD[how]
    new = changed(tmp_path, project, edits)
    with Visits(per_second=5) as visits:
        result = release(project, new)
    assert result.returncode != 0
    assert why in words(result)
    assert end in words(result)
    assert running(project) == as_before[project]
    assert visits.failed == [], visits
    assert manage(FIRST, "producer", "roundtrip")["ok"]
    if end == "all is as it was":
        assert "failed: " in node(TOPOLOGY.hosts("worker")[0]).check_output(f"tail -n 1 {LOG}")


@pytest.mark.slow
def test_a_way_back_that_fails_as_well_is_said(tmp_path, as_before):
    worker = node(TOPOLOGY.hosts("worker")[0])
    project, edits, why, _ = BAD["does not start"]
    celery = f"{contract('projects_directory')}/{project}/releases/{as_before[project]}/venv/bin/celery"
    worker.check_output(f"chmod a-x {celery}")
    try:
        result = release(project, changed(tmp_path, project, edits))
    finally:
        worker.check_output(f"chmod a+x {celery}")
    assert result.returncode != 0
    assert why in words(result)
    assert re.search(
        rf"the way back failed, too: .*, and run the runbook rollback to {as_before[project]}\.", words(result)
    )
    back = playbook(ROLLBACK, extra={"rollback_project": project, "rollback_release": as_before[project]})
    assert back.returncode == 0, back.stdout
    assert manage(FIRST, "producer", "roundtrip")["ok"]


MIGRATION = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("jobs", "0004_wake")]
    operations = [migrations.RemoveField("job", "work_seconds")]
"""


def test_a_migration_that_breaks_what_runs_is_refused(tmp_path, as_before):
    result = release("producer", changed(tmp_path, "producer", {"jobs/migrations/0004_narrow.py": MIGRATION}))
    assert result.returncode != 0
    assert "It would break what runs: jobs.0004_narrow (Remove field work_seconds from job)" in words(result)
    assert "[ ] 0004" not in playbook_shows("showmigrations jobs")
    assert manage(FIRST, "producer", "roundtrip")["ok"]


def playbook_shows(command):
    result = playbook("runbooks/manage/playbook.yml", extra={"manage_project": "producer", "manage_command": command})
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_two_at_once_are_refused():
    lock = "systemd-run --quiet --collect --unit=quintet-roll --description='ann@desk: release of service' sleep 600"
    node(FIRST).check_output(lock)
    try:
        result = release("producer")
        assert result.returncode != 0
        assert "Somebody is at it: ann@desk: release of service, since" in words(result)
        taken = release("producer", {"release_take_over": True})
        assert taken.returncode == 0, taken.stdout
    finally:
        node(FIRST).run("systemctl stop quintet-roll")
    eventually(lambda: node(FIRST).run("systemctl is-active quintet-roll").rc != 0, 10)


@pytest.mark.parametrize("asked", [{}, {"release_project": "produce"}])
def test_what_is_missing_is_said(asked):
    result = playbook(RELEASE, extra=asked)
    assert result.returncode != 0
    assert "Say -e release_project=..., one of producer, service." in words(result)
