"""The newest backup is restored and counted, right to the last row; it says what is wrong, and leaves nothing."""

import re
import subprocess

import pytest

from verify import FIRST, PLAIN, ROOT, contract, deploy, eventually, failure, manage, node, playbook, playbook_command
from verify.tiers import database_host, sql

RUNBOOK = "runbooks/drill/playbook.yml"
HOST = database_host()
[REPOSITORY] = contract("repository_hosts")
ROWS = 300


def words(result):
    return " ".join(result.stdout.split())


def left():
    """What of a drill is on the host: files, processes, its unit."""
    machine = node(HOST)
    look = "find /var/tmp /tmp -path '*beside*'; pgrep -f '[p]ostgres -D /var/tmp/beside'"
    return machine.run(f"{look}; systemctl is-active quintet-beside").stdout.replace("inactive", "").strip()


def hand_over():
    """Have the log taken into the repository."""
    node(HOST).check_output(f"su postgres -c 'pgbackrest --stanza={contract('pgbackrest_stanza', HOST)} check'")


def assert_nothing_left():
    """systemd removes what is in the unit's /var/tmp right after its end."""
    eventually(lambda: left() == "", 5)


@pytest.fixture(scope="module", autouse=True)
def table():
    """A table of ours, with rows, in a backup; and with more of them since."""
    manage(FIRST, "producer", "roundtrip")
    sql(HOST, f"DROP TABLE IF EXISTS drill; CREATE TABLE drill AS SELECT generate_series(1, {ROWS}) AS id", "service")
    node(REPOSITORY).check_output("systemctl start quintet-backup@diff")
    sql(HOST, f"INSERT INTO drill SELECT generate_series(1, {ROWS})", "service")
    hand_over()
    yield
    sql(HOST, "DROP TABLE drill", "service")


def test_it_restores_counts_and_leaves_nothing():
    result = playbook(RUNBOOK)
    assert result.returncode == 0, failure(result)
    said = {
        name: (int(restored), int(live))
        for name, restored, live in re.findall(r"(\w+): \d+ tables, (\d+) rows; live (\d+)", words(result))
    }
    assert said.keys() == {"postgres", "producer", "service"}
    assert said["service"][0] == said["service"][1] >= 2 * ROWS, "what came after the backup is not there"
    assert said["producer"][0] == said["producer"][1] > 0
    assert "Each page and each index was read, and is sound." in words(result)
    assert_nothing_left()
    assert deploy(limit="postgresql")[0] == 0


@pytest.mark.slow
def test_it_says_what_is_missing():
    """The log goes nowhere: what was committed since is in no backup."""
    sql(HOST, "ALTER SYSTEM SET archive_command = 'false'")
    sql(HOST, "SELECT pg_reload_conf()")
    try:
        sql(HOST, f"INSERT INTO drill SELECT generate_series(1, {10 * ROWS})", "service")
        result = playbook(RUNBOOK)
    finally:
        sql(HOST, "ALTER SYSTEM RESET archive_command")
        sql(HOST, "SELECT pg_reload_conf()")
        hand_over()
    assert result.returncode != 0
    assert "it ends with the transaction of" in words(result)
    live = 12 * ROWS
    assert f"service public.drill has {2 * ROWS} rows in the backup, and {live} to {live} live" in words(result)
    assert_nothing_left()


@pytest.mark.slow
def test_one_that_is_killed_leaves_nothing():
    process = subprocess.Popen(playbook_command(RUNBOOK), cwd=ROOT, env=PLAIN, stdout=subprocess.DEVNULL)
    eventually(lambda: "beside/base" in (found := left()) and found.endswith("active"), 30)
    node(HOST).check_output("systemctl kill --signal KILL quintet-beside")
    assert process.wait(30) != 0
    assert_nothing_left()
