"""Each tier but PostgreSQL is restarted under a stream of jobs and visits: nobody is refused, nothing is lost."""

import pytest

from verify import TOPOLOGY, contract, deploy, failure, node, playbook
from verify.stream import Stream, assert_nothing_lost
from verify.visits import Visits

RUNBOOK = "runbooks/restart/playbook.yml"
# A unit of each tier, by the group of its hosts.
UNITS = {
    "web": "gunicorn-producer",
    "worker": "celery-service",
    "rabbitmq": "rabbitmq-server",
    "redis": "redis-server@results",
}
# Requests wait while gunicorn starts, which takes a second, and many on a machine that is busy.
SLOWEST_SECONDS = 20


def restart(**asked):
    return playbook(RUNBOOK, extra=asked)


def processes(tier):
    """The main process of the tier's unit on each of its hosts."""
    show = f"systemctl show --value --property MainPID {UNITS[tier]}"
    return {host: node(host).check_output(show) for host in TOPOLOGY.hosts(tier)}


@pytest.fixture(scope="module")
def restarted():
    """All four, one after the other, under load: the processes before and after, the stream, and the visits."""
    before = {tier: processes(tier) for tier in UNITS}
    with Stream() as stream, Visits() as visits:
        for tier in UNITS:
            result = restart(restart_tier=tier)
            assert result.returncode == 0, failure(result)
    return before, {tier: processes(tier) for tier in UNITS}, stream, visits


@pytest.mark.parametrize("tier", UNITS)
def test_each_host_has_a_new_process(restarted, tier):
    before, after, _, _ = restarted
    assert before[tier].keys() == after[tier].keys() == set(TOPOLOGY.hosts(tier))
    assert not before[tier].items() & after[tier].items()


def test_nobody_is_refused_and_nothing_is_lost(restarted):
    _, _, stream, visits = restarted
    assert len(stream.intents) > 50
    assert visits.failed == [], visits
    assert_nothing_lost(stream, slowest=SLOWEST_SECONDS)


@pytest.mark.usefixtures("restarted")
def test_what_was_restarted_is_not_again_and_a_deploy_has_nothing_to_do():
    asked = {"restart_tier": "worker", "restart_project": "service", "restart_id": "once"}
    others = node(TOPOLOGY.hosts("worker")[0]).check_output("systemctl show --value --property MainPID celery-producer")
    assert restart(**asked).returncode == 0
    before = processes("worker")
    result = restart(**asked)
    assert result.returncode == 0
    assert "changed=1" not in result.stdout
    assert processes("worker") == before
    shown = node(TOPOLOGY.hosts("worker")[0]).check_output("systemctl show --value --property MainPID celery-producer")
    assert shown == others, "another project was restarted"
    assert deploy(limit="rabbitmq:redis")[0] == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, f"one of {', '.join(tier for tier in contract('tier_roles') if tier != 'edge')}"),
        ({"restart_tier": "web", "restart_project": "produce"}, "one of producer, service"),
        ({"restart_tier": "postgresql"}, "-e confirm=postgresql"),
    ],
)
def test_what_cannot_be_is_refused(asked, says):
    result = restart(**asked)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
