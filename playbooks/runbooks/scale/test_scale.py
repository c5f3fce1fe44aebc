"""A web and a worker host come and go again under a stream of jobs, and where a tier of data has several hosts, some of
these as well: tasks are finished, and nothing is lost.

They are in a file beside the topology, whose group_vars are theirs, too. The addresses of all are written down, as
those of containers follow from their order.
"""

import json
import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

import verify
import verify.stream
from tests.topology import ROOT, Topology
from verify import BASE, FIRST, contract, deploy, eventually, failure, manage, node, playbook, visitor
from verify.stream import Stream, assert_nothing_lost
from verify.tiers import SEVERAL, several

RUNBOOK = "runbooks/scale/playbook.yml"
SMALL = verify.TOPOLOGY
WEB, WORKER = (f"{tier}{len(SMALL.hosts(tier)) + 1}" for tier in ("web", "worker"))
# Hosts of data, in the order in which they leave; the number of RabbitMQ's is odd.
DATABASE, BROKERS = "postgresql4", ["rabbitmq4", "rabbitmq5"]
DATA = [DATABASE, *BROKERS] if SEVERAL else []
NEW = {host: host.rstrip("0123456789") for host in [WEB, WORKER, *DATA]}
if SEVERAL:
    from verify.chaos.cluster import FOLLOWS, LEADS, VHOST, leader, members, queues, rabbitmq, switch
    from verify.chaos.run import whole
LONG_SECONDS = 20
# A post needs PostgreSQL only; the machine has much to do meanwhile.
UNDISTURBED_SECONDS = 10
# While the leader of PostgreSQL hands over, and is handed over to.
REFUSED = {503} if SEVERAL else ()


def leave(host, **asked):
    return playbook(RUNBOOK, extra={"scale_leaving": host} | asked)


def as_said(result):
    assert result.returncode == 0, failure(result)
    return " ".join(result.stdout.split())


@contextmanager
def topology(hosts):
    """The topology with these of the new hosts as well, for this file and all that it calls."""
    network = contract("node_network")
    new = {host: {"host_address": f"{network}.{200 + index}"} for index, host in enumerate(NEW)}
    known = {host: {"host_address": contract("host_address", host)} for host in SMALL.hosts()}
    groups = {NEW[host]: {"hosts": {one: new[one] for one in hosts if NEW[one] == NEW[host]}} for host in hosts}
    path = ROOT / f"inventories/wider-{os.getpid()}-{len(hosts)}.yml"
    path.write_text(json.dumps({"all": {"children": groups, "hosts": known}}))
    with pytest.MonkeyPatch.context() as patch:
        for module in (verify, verify.stream):
            patch.setattr(module, "TOPOLOGY", Topology(*SMALL.sources[:1], path, *SMALL.sources[1:]))
        try:
            yield
        finally:
            path.unlink()


@pytest.fixture(scope="module")
def wide():
    """The topology with all of them; afterwards they are gone."""
    with topology(NEW):
        try:
            as_said(playbook("nodes/create.yml", "--limit", ",".join(NEW)))
            yield
        finally:
            for host in NEW:
                verify.container(host).remove(force=True, v=True)


@pytest.fixture
def small(monkeypatch):
    """The topology without them, whatever was before."""
    for module in (verify, verify.stream):
        monkeypatch.setattr(module, "TOPOLOGY", SMALL)


def services(host):
    """The units of Quintet's tiers that a host runs, or would start at boot."""
    patterns = (
        "'celery-*' 'beat-*' 'gunicorn-*' 'relay-*' 'nginx*' 'haproxy*' patroni pgbackrest rabbitmq-server 'epmd*'"
    )
    running = node(host).check_output(f"systemctl list-units --plain --no-legend --state=active,activating {patterns}")
    # Of none at all systemctl says 1.
    booted = node(host).run(f"systemctl list-unit-files --no-legend --state=enabled {patterns}").stdout
    return sorted({line.split()[0] for line in running.splitlines() + booted.splitlines()})


def post(seconds):
    answer = visitor().post(f"{BASE}/api/jobs", json={"first": "long", "second": "task", "work_seconds": seconds})
    return f"{BASE}/api/jobs/{answer.json()['id']}"


def done(addresses):
    """The jobs at these addresses, once all of them are done."""
    jobs = [visitor().get(address, timeout=5).json() for address in addresses]
    return jobs if all(job["state"] == "done" for job in jobs) else None


def broker(host):
    """The name of a node of RabbitMQ."""
    return contract("rabbitmq_node_name", host)


def use_the_new_ones():
    """One of them leads PostgreSQL, and another is one of the three that have the queue of tasks."""
    switch(leader("postgresql"), DATABASE)
    assert eventually(lambda: leader("postgresql") == DATABASE)
    there = queues()["service"]
    gone = next(one for one in there["members"] if one != there["leader"])
    for verb, one in (("add_member", broker(BROKERS[0])), ("delete_member", gone)):
        node(BROKERS[0]).check_output(f"rabbitmq-queues {verb} --vhost {VHOST} service {one}")


def data_tiers():
    """Who is of PostgreSQL and how, which nodes of RabbitMQ run, and which have the queue of tasks."""
    return {
        "members": {name: (member["role"], member["state"]) for name, member in members().items()},
        "nodes": set(rabbitmq(SMALL.hosts("rabbitmq")[0], "cluster_status")["running_nodes"]),
        "queue": set(queues()["service"]["members"]),
    }


def settled(found):
    """Whether each member of PostgreSQL leads or follows, and the queue is where it should be."""
    return set(found["members"].values()) == {LEADS, FOLLOWS} and len(found["queue"]) == 3


@pytest.fixture(scope="module")
def scaled(wide):
    """Added, under load; then taken away, while one has tasks. What is to be asserted of it, by a name each."""
    seen = {}
    with Stream(per_second=3, work_seconds=0) as stream:
        deploy()
        seen["added"] = {host: services(host) for host in NEW}
        seen["answered"] = manage(WEB, "producer", "roundtrip")["ok"]
        if SEVERAL:
            seen["data"] = eventually(lambda: found if settled(found := data_tiers()) else None)
            use_the_new_ones()
            seen["used"] = eventually(lambda: found if settled(found := data_tiers()) else None)
        long = [post(LONG_SECONDS) for _ in range(3 * len(verify.TOPOLOGY.hosts("worker")))]
        time.sleep(3)
        began = datetime.now(UTC)
        seen["said"] = as_said(leave(WORKER))
        seen["leaving"] = began, datetime.now(UTC)
        seen["again"] = as_said(leave(WORKER))
        as_said(leave(WEB))
        seen["data said"] = {host: as_said(leave(host, confirm=host)) for host in DATA}
        seen["data again"] = [as_said(leave(host, confirm=host)) for host in DATA[-1:]]
        if SEVERAL:
            seen["data left"] = data_tiers()
        seen["left"] = {host: services(host) for host in NEW}
        kept = ["/opt/quintet/*/environment*", "/etc/*/identity.pem", "/etc/pgbackrest/pgbackrest.conf"]
        kept += ["/var/lib/rabbitmq/.erlang.cookie", "/var/lib/postgresql/*/*/PG_VERSION"]
        seen["kept"] = {host: node(host).run(f"ls {' '.join(kept)}").stdout for host in NEW}
        seen["long"] = eventually(lambda: done(long), 2 * LONG_SECONDS)
    return seen, stream


@pytest.mark.slow
def test_what_was_added_works(scaled):
    seen, _ = scaled
    assert {"gunicorn-producer.service", "nginx.service", "relay-producer.service"} <= set(seen["added"][WEB])
    assert {"celery-producer.service", "celery-service.service"} <= set(seen["added"][WORKER])
    assert seen["answered"]


@pytest.mark.slow
def test_a_worker_leaves_when_its_tasks_are_done(scaled):
    seen, _ = scaled
    assert f"{WORKER} is out of service. Take it out of the inventory" in seen["said"]
    there = [job for job in seen["long"] if job["worker"] == WORKER]
    assert there, "it had no task, or another worker did it again"
    began, ended = seen["leaving"]
    for job in there:
        started, finished = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
        assert started < began < finished < ended
    assert "Nothing changed." in seen["again"]


@pytest.mark.slow
@several
def test_hosts_of_data_join_a_cluster_that_is_in_use(scaled):
    seen, _ = scaled
    assert seen["data"]["members"][DATABASE] == FOLLOWS
    assert {broker(host) for host in BROKERS} < seen["data"]["nodes"]
    assert seen["used"]["members"][DATABASE] == LEADS
    assert broker(BROKERS[0]) in seen["used"]["queue"]


@pytest.mark.slow
@several
def test_the_others_have_what_a_host_of_data_had(scaled):
    seen, _ = scaled
    assert set(seen["data left"]["members"]) == set(SMALL.hosts("postgresql"))
    assert seen["data left"]["nodes"] == {broker(host) for host in SMALL.hosts("rabbitmq")}
    assert seen["data left"]["queue"] == seen["data left"]["nodes"]
    for host in DATA:
        assert f"{host} is out of service. Take it out of the inventory" in seen["data said"][host]
    assert "Nothing changed." in seen["data again"][0]


@pytest.mark.slow
def test_nothing_of_it_runs_any_more(scaled):
    seen, _ = scaled
    assert set(map(tuple, seen["left"].values())) == {()}
    assert set(seen["kept"].values()) == {""}


@pytest.mark.slow
def test_nothing_is_lost(scaled):
    _, stream = scaled
    assert len(stream.intents) > 100
    # Who had data has none of it any more.
    with topology([WEB, WORKER]):
        assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS, refused=REFUSED)


@pytest.mark.slow
@pytest.mark.usefixtures("scaled", "small")
def test_the_others_forget_it_and_then_nothing_changes():
    assert deploy()[0] > 0
    for host in {SMALL.hosts(tier)[0] for tier in ("postgresql", "rabbitmq", "redis")}:
        assert ".200" not in node(host).check_output("nft list table inet quintet")
    assert deploy()[0] == 0
    if SEVERAL:
        whole()


ALONE = [
    ({}, f"Say -e scale_leaving=..., a host that the inventory still has: {', '.join(SMALL.hosts())}."),
    ({"scale_leaving": "worker9"}, "Say -e scale_leaving=..."),
    ({"scale_leaving": "rabbitmq1"}, "rabbitmq1 is of rabbitmq, and there is no other"),
    ({"scale_leaving": "web1"}, "web1 is the only web host of producer: add another one first."),
    ({"scale_leaving": "worker1"}, "worker1 is the only worker host of service: add another one first."),
]
TOGETHER = [
    ({"scale_leaving": "data1"}, "data1 is of postgresql, which has 3 hosts: of fewer none could be lost."),
    ({"scale_leaving": "edge1"}, "edge1 is of edge, of which each host counts"),
]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("asked", "says"), TOGETHER if SEVERAL else ALONE)
def test_what_cannot_be_is_refused(asked, says):
    before = services(FIRST)
    result = playbook(RUNBOOK, extra=asked)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
    assert services(FIRST) == before
