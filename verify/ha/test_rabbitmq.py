"""Three nodes that are one broker: each may be lost, and one after the other restarts."""

import json
import time
from shlex import quote

import pytest

from verify import TOPOLOGY, container, contract, deaf, eventually, killed, mute, node

NODES = TOPOLOGY.hosts("rabbitmq")
VHOST = contract("broker_vhost")
# Longer than it takes to be believed lost, and than its node waits for the others to agree.
MUTE_SECONDS = 40


def rabbitmqctl(host, *arguments):
    """The JSON of a command on one node."""
    return json.loads(node(host).check_output("rabbitmqctl --quiet --formatter json " + " ".join(arguments)))


def running(host):
    """The hosts whose nodes one node sees."""
    return {name.removeprefix("rabbit@").split(".")[0] for name in rabbitmqctl(host, "cluster_status")["running_nodes"]}


def members():
    """The nodes that each quorum queue is on, by its name, and those of them that answer."""
    rows = rabbitmqctl(NODES[0], "list_queues", "--vhost", quote(VHOST), "name", "type", "members", "online")
    return {row["name"]: (set(row["members"]), set(row["online"])) for row in rows if row["type"] == "quorum"}


def whole():
    """Whether every node sees every node, and every queue is on three."""
    everybody, least = set(NODES), min(len(NODES), 3)
    queues = members()
    return all(running(host) == everybody for host in NODES) and all(
        len(there) == least and there == online for there, online in queues.values()
    )


def test_every_node_knows_every_node():
    assert whole()
    assert len({rabbitmqctl(host, "cluster_status")["cluster_name"] for host in NODES}) == 1


def test_queues_are_on_three_nodes():
    assert {"service", "results", "parked"} <= members().keys()


@pytest.mark.slow
@pytest.mark.parametrize("host", NODES)
def test_a_node_that_dies_comes_back_by_itself(host):
    node(host).check_output("systemctl kill --signal SIGKILL rabbitmq-server")
    eventually(whole, 120)


@pytest.mark.slow
def test_a_host_that_dies_comes_back_by_itself():
    with killed(NODES[0]):
        eventually(lambda: running(NODES[1]) == set(NODES[1:]), 60)
    eventually(whole, 120)


@pytest.mark.slow
@pytest.mark.parametrize("host", NODES)
def test_a_host_that_hears_nobody_is_taken_for_lost_and_comes_back_by_itself(host):
    others = [other for other in NODES if other != host]
    with deaf(host):
        eventually(lambda: all(running(other) == set(others) for other in others), 30)
    eventually(whole, 120)


@pytest.mark.slow
@pytest.mark.parametrize("host", NODES)
def test_workers_consume_again_after_a_host_that_nobody_heard(host):
    """Its node cannot delete the mailboxes of those whose connections it lost meanwhile, and they stay locked."""

    def consumers():
        rows = rabbitmqctl(NODES[0], "list_queues", "--vhost", quote(VHOST), "name", "consumers")
        return [row["consumers"] for row in rows if row["name"] in ("service", "results")]

    with mute(host):
        time.sleep(MUTE_SECONDS)
    eventually(whole, 120)
    eventually(lambda: consumers() == [len(TOPOLOGY.hosts("worker"))] * 2, 60)


@pytest.mark.slow
def test_all_of_them_killed_at_once_come_back_by_themselves():
    before = members().keys()
    for host in NODES:
        container(host).kill()
    for host in reversed(NODES):
        container(host).start()
    eventually(whole, 180)
    assert members().keys() == before


def test_who_was_away_leads_as_many_queues_as_the_others():
    def shares():
        rows = rabbitmqctl(NODES[0], "list_queues", "--vhost", quote(VHOST), "type", "leader")
        leaders = [row["leader"] for row in rows if row["type"] == "quorum"]
        return [leaders.count(contract("rabbitmq_node_name", host)) for host in NODES]

    node(NODES[0]).check_output("systemctl restart rabbitmq-server")
    eventually(whole, 60)
    # Those of delayed jobs alone are 28.
    assert sum(shares()) > 28
    assert eventually(lambda: max(shares()) - min(shares()) <= 2, 30), shares()
