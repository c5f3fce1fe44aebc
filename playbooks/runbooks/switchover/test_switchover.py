"""Another host leads, while somebody writes all the time; or it is said why none can."""

import pytest

from verify import TOPOLOGY, deploy, eventually, failure, node, playbook
from verify.stream import Stream, findings
from verify.tiers import SEVERAL, several

RUNBOOK = "runbooks/switchover/playbook.yml"
if SEVERAL:
    from verify.chaos.cluster import DOMAIN, LOOKS, leader
    from verify.ha import test_redis
CTL = "patronictl --config-file /etc/patroni/config.yml"
# How long writes wait at most. The goal is 3; here others may be using the machine.
SLOWEST_SECONDS = 10


def switchover(**asked):
    return playbook(RUNBOOK, extra=asked)


def words(result):
    return " ".join(result.stdout.split())


def another(tier):
    """A host that does not lead."""
    first = leader(tier)
    return first, next(host for host in TOPOLOGY.hosts(tier) if host != first)


@several
def test_a_host_that_is_named_leads_postgresql_and_nothing_is_lost():
    eventually(LOOKS["postgresql"], 60)
    first, then = another("postgresql")
    with Stream() as stream:
        result = switchover(switchover_tier="postgresql", switchover_to=then)
    assert result.returncode == 0, failure(result)
    assert f"PostgreSQL: {first} led, and {then} leads." in words(result)
    assert leader("postgresql") == then
    found = findings(stream)
    print(found)
    assert found.accepted == len(stream.intents)
    assert found.wrong == {}
    assert found.gap < SLOWEST_SECONDS
    again = switchover(switchover_tier="postgresql", switchover_to=then)
    assert f"PostgreSQL: {then} led, and {then} leads." in words(again)


@several
def test_a_host_that_is_named_leads_redis_and_nothing_is_lost():
    eventually(LOOKS["redis"], 60)
    first, then = another("redis")
    with test_redis.Writes(60) as writes:
        result = switchover(switchover_tier="redis", switchover_to=then)
    assert result.returncode == 0, failure(result)
    assert f"Redis results: {first}.{DOMAIN} led, and {then}.{DOMAIN} leads." in words(result)
    assert all(test_redis.settled(port) == then for port in test_redis.PORTS.values())
    print(f"acknowledged {len(writes.acknowledged)}, longest gap {writes.gap():.1f} s")
    assert writes.lost() == []
    assert writes.gap() < SLOWEST_SECONDS


@several
def test_any_other_host_leads_and_a_deploy_moves_nothing():
    before = {tier: leader(tier) for tier in ("postgresql", "redis")}
    for tier in before:
        assert switchover(switchover_tier=tier).returncode == 0
    after = {tier: leader(tier) for tier in before}
    assert not before.items() & after.items()
    changes, output = deploy()
    assert changes == 0, output
    assert {tier: leader(tier) for tier in before} == after


@several
@pytest.mark.parametrize(
    ("fault", "remedy", "says"),
    [
        ("systemctl stop patroni", "systemctl start patroni", "Connection refused"),
        (f"{CTL} pause --wait", f"{CTL} resume --wait", "is paused"),
    ],
)
def test_nothing_is_handed_over_to_who_could_not_take_it(fault, remedy, says):
    eventually(LOOKS["postgresql"], 60)
    first, then = another("postgresql")
    node(then).check_output(fault)
    try:
        result = switchover(switchover_tier="postgresql")
        assert result.returncode != 0
        assert says in words(result)
        assert leader("postgresql") == first
    finally:
        node(then).check_output(remedy)
    eventually(LOOKS["postgresql"], 60)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "Say -e switchover_tier=postgresql or -e switchover_tier=redis."),
        ({"switchover_tier": "rabbitmq"}, "Say -e switchover_tier=postgresql or -e switchover_tier=redis."),
        *(
            ({"switchover_tier": tier, "switchover_to": "data9"}, says)
            for tier in ("postgresql", "redis")
            for says in [
                f"is one of {', '.join(TOPOLOGY.hosts(tier))}, or not said"
                if len(TOPOLOGY.hosts(tier)) > 1
                else f"{TOPOLOGY.hosts(tier)[0]} is the only host of the group {tier}, and nobody could take over"
            ]
        ),
    ],
)
def test_what_cannot_be_is_refused(asked, says):
    result = switchover(**asked)
    assert result.returncode != 0
    assert says in words(result)
