"""What was accepted is there after the data directory is gone, but for a last minute; and as it was at any time."""

import re
import time
from datetime import UTC, datetime

import pytest

from verify import (
    BASE,
    FIRST,
    TOPOLOGY,
    contract,
    deploy,
    eventually,
    failure,
    manage,
    node,
    playbook,
    together,
    visitor,
)
from verify.stream import messages
from verify.tiers import PATRONI, database_host, sql

RUNBOOK = "runbooks/restore/playbook.yml"
BACKUP = "runbooks/backup/playbook.yml"
HOST = TOPOLOGY.hosts("postgresql")[0]
STACK = contract("stack")
[REPOSITORY] = contract("repository_hosts")
DATA = contract("pgbackrest_data_directory", HOST)
UNIT = contract("database_unit", HOST)
# What may be lost, and a while more than that.
LOST_SECONDS, ACCEPTING_SECONDS = 60, 75
# After so long the relay sends a job again.
RESEND_SECONDS = 300


def restore(to, **more):
    result = playbook(RUNBOOK, extra={"restore_to": to, "confirm": STACK, **more})
    assert result.returncode == 0, failure(result)
    return result.stdout


def accept(word):
    """A job's id, and when it was accepted at the latest."""
    answer = visitor().post(f"{BASE}/api/jobs", json={"first": "restore", "second": word}, timeout=20)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()["id"], time.time()


def states():
    """The state of each job, by its id."""
    found = sql(database_host(), "SELECT id, state FROM jobs_job", "producer")
    return dict(line.split("|") for line in found.splitlines())


def assert_it_works():
    """Jobs go through, none waits, nothing is in the way, and a deploy has nothing to do."""
    assert manage(FIRST, "producer", "roundtrip")["ok"]
    # As if so much time had passed: the message of a job that was done in the lost minute does not come again.
    waiting = f"UPDATE jobs_job SET due_at = due_at - interval '{RESEND_SECONDS} s' WHERE state = 'waiting'"
    sql(database_host(), waiting, "producer")
    eventually(lambda: set(states().values()) == {"done"}, 90)
    eventually(lambda: not any(messages().values()), 30)
    assert deploy()[0] == 0


@pytest.fixture(scope="module", autouse=True)
def backed_up():
    node(REPOSITORY).check_output("systemctl start quintet-backup@diff")


def test_a_lost_data_directory_costs_no_more_than_a_minute():
    accepted, end = [], time.monotonic() + ACCEPTING_SECONDS
    while time.monotonic() < end:
        accepted.append(accept(str(len(accepted))))
        time.sleep(0.3)
    lost_at = time.time()
    together(TOPOLOGY.hosts("postgresql"), f"systemctl kill --signal KILL {UNIT}; rm -rf {DATA}")
    began = time.monotonic()
    restore("latest")
    assert time.monotonic() - began < 300
    found = states()
    lost = [lost_at - at for job, at in accepted if job not in found]
    assert len(accepted) - len(lost) > 10
    assert max(lost, default=0) < LOST_SECONDS
    assert_it_works()


@pytest.mark.slow
def test_it_is_as_it_was_at_a_time_and_that_can_be_undone():
    before, _ = accept("before")
    time.sleep(1)
    at = datetime.now(UTC)
    time.sleep(1)
    after, _ = accept("after")
    said = restore(at.isoformat(sep=" "))
    assert before in states()
    assert after not in states()
    assert "goes on after the transaction of" in said
    [timeline] = re.findall(r"-e restore_timeline=(\d+)", said)
    restore("latest", restore_timeline=timeline)
    assert {before, after} <= states().keys()
    assert_it_works()


@pytest.mark.slow
@pytest.mark.skipif(PATRONI, reason="Of several hosts each would have to be replaced.")
def test_an_empty_host_is_not_taken_for_the_one_that_was_lost():
    job, _ = accept("kept")
    file = sql(HOST, "SELECT pg_walfile_name(pg_switch_wal())")
    eventually(lambda: sql(HOST, "SELECT last_archived_wal FROM pg_stat_archiver") >= file, 20)
    cluster = f"{contract('database_version')} main"
    node(HOST).check_output(f"systemctl stop {UNIT}; pg_dropcluster {cluster} && pg_createcluster {cluster}")
    refused = playbook("deploy.yml")
    assert refused.returncode != 0
    assert "go on with the runbook `restore`" in " ".join(refused.stdout.split())
    restore("latest")
    assert job in states()
    deploy()
    assert_it_works()


@pytest.fixture
def other():
    """The name of a database that is gone again in the end."""
    yield "other"
    node(database_host()).check_output("su postgres -c 'dropdb --if-exists other'")


@pytest.mark.slow
def test_one_database_comes_back_beside_the_live_one(other):
    before, _ = accept("before")
    time.sleep(1)
    at = datetime.now(UTC)
    time.sleep(1)
    after, _ = accept("after")
    process = node(HOST).check_output(f"systemctl show --value --property MainPID {UNIT}")
    asked = {"restore_to": at.isoformat(sep=" "), "restore_database": "producer", "restore_as": other}
    result = playbook(RUNBOOK, extra=asked)
    assert result.returncode == 0, failure(result)
    found = sql(database_host(), "SELECT id FROM jobs_job", other).splitlines()
    assert before in found
    assert after not in found
    assert {before, after} <= states().keys()
    assert node(HOST).check_output(f"systemctl show --value --property MainPID {UNIT}") == process
    again = playbook(RUNBOOK, extra=asked)
    assert again.returncode != 0
    assert "There is a database other already." in " ".join(again.stdout.split())
    assert deploy(limit="postgresql")[0] == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"restore_to": "latest"}, f"-e confirm={STACK}"),
        ({"restore_to": "latest", "confirm": "yes"}, f"-e confirm={STACK}"),
        ({"confirm": STACK}, "-e restore_to=latest, or a time with its zone"),
        ({"restore_to": "2026-11-27 02:00:00", "confirm": STACK}, "-e restore_to=latest, or a time with its zone"),
        ({"restore_to": "2001-01-01 00:00:00+00", "confirm": STACK}, "The oldest backup ended at"),
        ({"restore_to": "2101-01-01 00:00:00+00", "confirm": STACK}, "which is yet to come"),
        (
            {"restore_to": "latest", "restore_timeline": "0", "confirm": STACK},
            "restore_timeline is 0. The backups are of",
        ),
        ({"restore_to": "latest", "restore_database": "produce"}, "It is one of producer, service"),
    ],
)
def test_what_cannot_be_is_refused(asked, says):
    before = node(HOST).check_output(f"systemctl show --value --property MainPID {UNIT}")
    result = playbook(RUNBOOK, extra=asked)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
    assert node(HOST).check_output(f"systemctl show --value --property MainPID {UNIT}") == before
