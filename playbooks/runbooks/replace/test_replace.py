"""A data host is lost with its disk, and an empty one takes its place, while jobs come in; or it is said why not."""

import time

import pytest

from verify import TOPOLOGY, container, deploy, failure, node, playbook
from verify.stream import Stream, assert_nothing_lost
from verify.tiers import SEVERAL, several

RUNBOOK = "runbooks/replace/playbook.yml"
HOSTS = TOPOLOGY.hosts("postgresql")
PROCESSES = "systemctl show --value --property MainPID patroni etcd rabbitmq-server"
if SEVERAL:
    from verify.chaos.cluster import etcd, leader
    from verify.chaos.run import whole


def replace(**asked):
    return playbook(RUNBOOK, extra=asked)


def words(result):
    return " ".join(result.stdout.split())


@several
def test_an_empty_host_takes_the_place_of_the_leader_and_nothing_is_lost():
    whole()
    lost = leader("postgresql")
    before = etcd(lost)["header"]["member_id"]
    with Stream(per_second=4) as stream:
        container(lost).remove(force=True, v=True)
        # Longer than it takes the others to do without it.
        time.sleep(40)
        created = playbook("nodes/create.yml")
        assert created.returncode == 0, failure(created)
        result = replace(replace_host=lost)
        assert result.returncode == 0, failure(result)
        whole()
    assert etcd(lost)["header"]["member_id"] != before
    assert_nothing_lost(stream, slowest=60, refused=(502, 503, 504, "ReadTimeout"))
    changes, output = deploy()
    assert changes == 0, output


@several
def test_who_has_data_is_left_alone():
    started = node(HOSTS[0]).check_output(PROCESSES)
    result = replace(replace_host=HOSTS[0])
    assert result.returncode != 0
    assert f"say -e confirm={HOSTS[0]}" in words(result)
    assert node(HOSTS[0]).check_output(PROCESSES) == started


@pytest.mark.slow
@several
def test_who_has_data_begins_anew_if_that_is_meant():
    host = next(one for one in HOSTS if one != leader("postgresql"))
    node(host).check_output("touch /var/lib/postgresql/mark /var/lib/etcd/mark /var/lib/rabbitmq/mnesia/mark")
    result = replace(replace_host=host, confirm=host)
    assert result.returncode == 0, failure(result)
    whole()
    assert node(host).run("ls /var/lib/postgresql/mark /var/lib/etcd/mark /var/lib/rabbitmq/mnesia/mark").stdout == ""


@pytest.mark.parametrize("host", ["", "web1", "data9"])
def test_what_cannot_be_is_refused(host):
    result = replace(replace_host=host)
    assert result.returncode != 0
    known = f"Say -e replace_host=..., one of {', '.join(HOSTS)}."
    assert (known if SEVERAL else f"What is on {HOSTS[0]} is nowhere else") in words(result)


@several
def test_it_is_refused_where_another_host_is_not_well():
    """The loss of one more would be the end."""
    started = node(HOSTS[0]).check_output(PROCESSES)
    node(HOSTS[1]).check_output("systemctl stop redis-sentinel@quintet")
    try:
        result = replace(replace_host=HOSTS[0], confirm=HOSTS[0])
    finally:
        node(HOSTS[1]).check_output("systemctl start redis-sentinel@quintet")
    assert result.returncode != 0
    assert f"{HOSTS[1]} is not well" in words(result)
    assert "It does not run redis-sentinel@quintet.service." in words(result)
    assert node(HOSTS[0]).check_output(PROCESSES) == started
