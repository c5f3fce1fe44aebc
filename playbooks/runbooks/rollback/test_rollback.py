"""Back to a release that was kept, under load; and when the schema went on."""

import re
import time

import pytest

from verify import FIRST, TOPOLOGY, deploy, failure, manage, node, playbook
from verify.releases import changed, kept, running
from verify.stream import Stream, assert_nothing_lost
from verify.visits import Visits

RELEASE, ROLLBACK = "runbooks/release/playbook.yml", "runbooks/rollback/playbook.yml"
LOG = "/var/log/quintet-releases.log"
SECONDS = 60
MIGRATION = """
from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("jobs", "0004_wake")]
    operations = [migrations.RunSQL("SELECT 1", {back})]
"""


def release(extra):
    result = playbook(RELEASE, extra={"release_project": "producer"} | extra)
    assert result.returncode == 0, failure(result)


def rollback(name, **extra):
    return playbook(ROLLBACK, extra={"rollback_project": "producer", "rollback_release": name} | extra)


def words(result):
    return " ".join(result.stdout.split())


@pytest.fixture
def original():
    """The release that runs; it does so again afterwards."""
    name = running("producer")
    yield name
    if running("producer") != name:
        result = rollback(name)
        assert result.returncode == 0, result.stdout


def migrated():
    """The migrations that the database has, of the application."""
    query = "COPY (SELECT name FROM django_migrations WHERE app = 'jobs') TO STDOUT"
    database = node(TOPOLOGY.hosts("postgresql")[0])
    return database.check_output(
        f'runuser -u postgres -- psql --no-psqlrc --quiet producer --command "{query}"'
    ).split()


def test_to_a_kept_release_under_load_and_back_within_a_minute(tmp_path, original):
    # One that was released in its day, unlike what failed.
    log = node(FIRST).run(f"cat {LOG}").stdout
    released = set(re.findall(r" release producer \S+ (\S+) done$", log, re.MULTILINE))
    if not kept("producer") & released - {original}:
        release(changed(tmp_path, "producer", {"README.md": "Another.\n"}))
        released |= {running("producer")}
        assert rollback(original).returncode == 0
    other = sorted(kept("producer") & released - {original})[0]
    with Stream() as stream, Visits() as visits:
        result = rollback(other)
    assert result.returncode == 0, failure(result)
    assert running("producer") == other
    print(f"{len(stream.answers)} jobs, {visits}")
    assert visits.failed == [], visits
    assert_nothing_lost(stream, slowest=15)
    # Without all these, who have the processors of this machine in common with it.
    started = time.monotonic()
    result = rollback(original)
    took = time.monotonic() - started
    assert result.returncode == 0, failure(result)
    assert running("producer") == original
    print(f"{took:.1f} s")
    assert took < SECONDS
    # It is the inventory's again.
    assert deploy()[0] == 0


@pytest.mark.slow
def test_a_schema_that_went_on_is_taken_back_when_told_so(tmp_path, original):
    new = changed(tmp_path, "producer", {"jobs/migrations/0004_more.py": MIGRATION.format(back='"SELECT 1"')})
    release(new | {"confirm": "breaks"})
    assert "0004_more" in migrated()
    refused = rollback(original)
    assert refused.returncode != 0
    assert "It would not run with what was migrated since: jobs.0004_more." in words(refused)
    assert "-e confirm=migrations" in words(refused)
    assert running("producer") != original
    result = rollback(original, confirm="migrations")
    assert result.returncode == 0, failure(result)
    assert "0004_more" not in migrated()
    assert manage(FIRST, "producer", "roundtrip")["ok"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"rollback_project": "produce"}, "one of producer, service"),
        ({"rollback_project": "producer"}, ", runs)"),
        ({"rollback_project": "producer", "rollback_release": "000000000000"}, ", runs)"),
    ],
)
def test_what_cannot_be_is_refused_and_what_can_be_is_said(asked, says):
    result = playbook(ROLLBACK, extra=asked)
    assert result.returncode != 0
    assert says in words(result)
