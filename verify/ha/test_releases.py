"""A day's worth of releases under load, forth and back: no request fails, and no job is lost."""

import itertools

import pytest

from verify import deploy, failure, playbook
from verify.releases import changed, running
from verify.stream import Stream, assert_nothing_lost
from verify.visits import Visits

REQUESTS = 20_000
# Of one request. The machine does the work of nine hosts, of the releases and of who asks.
SLOWEST_SECONDS = 20


def told(runbook, **asked):
    result = playbook(f"runbooks/{runbook}/playbook.yml", extra={f"{runbook}_project": "producer"} | asked)
    assert result.returncode == 0, failure(result)


@pytest.mark.slow
def test_twenty_thousand_requests_across_releases_and_rollbacks(tmp_path):
    original, seen = running("producer"), []
    with Stream(per_second=1, reads=14, delayed=0.5, again=0.5) as stream, Visits(per_second=4) as visits:
        for number in itertools.count(1):
            told("release", **changed(tmp_path, "producer", {"README.md": f"Release {number}.\n"}))
            seen.append(running("producer"))
            told("rollback", rollback_release=original)
            assert running("producer") == original
            requests = len(stream.answers) + len(visits.visits)
            print(f"{number} releases and rollbacks, {requests} requests, {visits}", flush=True)
            if requests >= REQUESTS:
                break
    assert len({original, *seen}) == len(seen) + 1
    assert visits.failed == [], visits
    assert_nothing_lost(stream, slowest=SLOWEST_SECONDS)
    assert deploy()[0] == 0
