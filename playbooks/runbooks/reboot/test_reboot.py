"""Each host boots anew, one after the other, under a stream of jobs: all is back, and no job is lost."""

import pytest

from verify import TOPOLOGY, deploy, failure, node, playbook
from verify.stream import Stream, assert_nothing_lost
from verify.tiers import SEVERAL, states

RUNBOOK = "runbooks/reboot/playbook.yml"
BOOTED = "systemctl show --value --timestamp=us+utc --property="
# Where nobody else is web or database, a client is refused until they are back, by whoever is there; where others are,
# while the leader of PostgreSQL hands over, and when an edge goes with its connections.
REFUSED = ("ConnectionError", "ConnectTimeout", "ReadTimeout", 500, 502, 503, 504)
CONFIRM = {} if SEVERAL else {"confirm": "postgresql1,web1"}
SLOWEST_SECONDS, GAP_SECONDS = 25, 10 if SEVERAL else 60


def times(of):
    """A moment of each host's boot, in the order of the inventory; times of one form are ordered as their texts."""
    return {host: node(host).check_output(BOOTED + of) for host in TOPOLOGY.hosts()}


@pytest.mark.slow
def test_each_host_boots_anew_and_no_job_is_lost():
    before = times("UserspaceTimestamp")
    with Stream(per_second=3) as stream:
        result = playbook(RUNBOOK, extra=CONFIRM)
    assert result.returncode == 0, failure(result)
    after, whole = times("UserspaceTimestamp"), times("FinishTimestamp")
    assert not before.items() & after.items()
    began, ended = [sorted(one[host][4:] for host in after) for one in (after, whole)]
    assert all(end < begin for end, begin in zip(ended, began[1:], strict=False)), "two were away at the same time"
    for host in TOPOLOGY.hosts():
        assert states(host) == {"active"}
    found = assert_nothing_lost(stream, slowest=SLOWEST_SECONDS, refused=REFUSED)
    print(found)
    assert found.gap < GAP_SECONDS
    assert deploy()[0] == 0


@pytest.mark.skipif(SEVERAL, reason="each host's work is done by another here")
@pytest.mark.parametrize(
    ("asked", "limit", "says"),
    [
        ({}, "all", "say -e confirm=postgresql1,web1."),
        ({"confirm": "web1"}, "all", "say -e confirm=postgresql1,web1."),
        ({}, "web:worker", "say -e confirm=web1."),
    ],
)
def test_an_interruption_must_be_meant(asked, limit, says):
    before = times("UserspaceTimestamp")
    result = playbook(RUNBOOK, "--limit", limit, extra=asked)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
    assert times("UserspaceTimestamp") == before
