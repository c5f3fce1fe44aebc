"""A web and a worker host come and go again under a stream of jobs: tasks are finished, and nothing is lost.

They are in a file beside the topology, whose group_vars are theirs, too. The addresses of all are written down, as
those of containers follow from their order.
"""

import json
import os
import time
from datetime import UTC, datetime

import pytest

import verify
import verify.stream
from tests.topology import ROOT, Topology
from verify import BASE, FIRST, contract, deploy, eventually, failure, manage, node, playbook, visitor
from verify.stream import Stream, assert_nothing_lost

RUNBOOK = "runbooks/scale/playbook.yml"
SMALL = verify.TOPOLOGY
NEW = {"web": "web2", "worker": "worker2"}
LONG_SECONDS = 20
# A post needs PostgreSQL only; the machine has much to do meanwhile.
UNDISTURBED_SECONDS = 10


def leave(host):
    return playbook(RUNBOOK, extra={"scale_leaving": host})


def as_said(result):
    assert result.returncode == 0, failure(result)
    return " ".join(result.stdout.split())


@pytest.fixture(scope="module")
def wide():
    """The topology with two hosts more, for this file and all that it calls; afterwards they are gone."""
    network = contract("node_network")
    new = {host: {"host_address": f"{network}.{200 + index}"} for index, host in enumerate(NEW.values())}
    known = {host: {"host_address": contract("host_address", host)} for host in SMALL.hosts()}
    groups = {group: {"hosts": {host: new[host]}} for group, host in NEW.items()}
    path = ROOT / f"inventories/wider-{os.getpid()}.yml"
    path.write_text(json.dumps({"all": {"children": groups, "hosts": known}}))
    with pytest.MonkeyPatch.context() as patch:
        for module in (verify, verify.stream):
            patch.setattr(module, "TOPOLOGY", Topology(*SMALL.sources[:1], path, *SMALL.sources[1:]))
        try:
            as_said(playbook("nodes/create.yml", "--limit", ",".join(new)))
            yield
        finally:
            for host in new:
                verify.container(host).remove(force=True, v=True)
            path.unlink()


@pytest.fixture
def small(monkeypatch):
    """The topology without them, whatever was before."""
    for module in (verify, verify.stream):
        monkeypatch.setattr(module, "TOPOLOGY", SMALL)


def services(host):
    """The units of Quintet's tiers that a host runs, or would start at boot."""
    patterns = "'celery-*' 'beat-*' 'gunicorn-*' 'relay-*' 'nginx*' 'haproxy*'"
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


@pytest.fixture(scope="module")
def scaled(wide):
    """Added, under load; then taken away, while one has tasks. What is to be asserted of it, by a name each."""
    seen = {}
    with Stream(per_second=3, work_seconds=0) as stream:
        deploy()
        seen["added"] = {host: services(host) for host in NEW.values()}
        seen["answered"] = manage(NEW["web"], "producer", "roundtrip")["ok"]
        long = [post(LONG_SECONDS) for _ in range(6)]
        time.sleep(3)
        began = datetime.now(UTC)
        seen["said"] = as_said(leave(NEW["worker"]))
        seen["leaving"] = began, datetime.now(UTC)
        seen["again"] = as_said(leave(NEW["worker"]))
        as_said(leave(NEW["web"]))
        seen["left"] = {host: services(host) for host in NEW.values()}
        secrets = "cat /opt/quintet/*/environment* /etc/haproxy/identity.pem"
        seen["secrets"] = {host: node(host).run(secrets).stdout for host in NEW.values()}
        seen["long"] = eventually(lambda: done(long), 2 * LONG_SECONDS)
    return seen, stream


@pytest.mark.slow
def test_what_was_added_works(scaled):
    seen, _ = scaled
    assert {"gunicorn-producer.service", "nginx.service", "relay-producer.service"} <= set(seen["added"]["web2"])
    assert {"celery-producer.service", "celery-service.service"} <= set(seen["added"]["worker2"])
    assert seen["answered"]


@pytest.mark.slow
def test_a_worker_leaves_when_its_tasks_are_done(scaled):
    seen, _ = scaled
    assert "worker2 is out of service. Take it out of the inventory" in seen["said"]
    there = [job for job in seen["long"] if job["worker"] == "worker2"]
    assert there, "it had no task, or another worker did it again"
    began, ended = seen["leaving"]
    for job in there:
        started, finished = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
        assert started < began < finished < ended
    assert "Nothing changed." in seen["again"]


@pytest.mark.slow
def test_nothing_of_it_runs_any_more(scaled):
    seen, _ = scaled
    assert seen["left"] == {"web2": [], "worker2": []}
    assert set(seen["secrets"].values()) == {""}


@pytest.mark.slow
def test_nothing_is_lost(scaled):
    _, stream = scaled
    assert len(stream.intents) > 100
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


@pytest.mark.slow
@pytest.mark.usefixtures("scaled", "small")
def test_the_others_forget_it_and_then_nothing_changes():
    assert deploy()[0] > 0
    for host in ("postgresql1", "rabbitmq1", "redis1"):
        assert ".200" not in node(host).check_output("nft list table inet quintet")
    assert deploy()[0] == 0


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "Say -e scale_leaving=..., a host of web or worker that the inventory still has: web1, worker1."),
        ({"scale_leaving": "worker9"}, "Say -e scale_leaving=..."),
        ({"scale_leaving": "rabbitmq1"}, "rabbitmq1 is of rabbitmq, and there is no other"),
        ({"scale_leaving": "web1"}, "web1 is the only web host of producer: add another one first."),
        ({"scale_leaving": "worker1"}, "worker1 is the only worker host of service: add another one first."),
    ],
)
def test_what_cannot_be_is_refused(asked, says):
    before = services(FIRST)
    result = playbook(RUNBOOK, extra=asked)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
    assert services(FIRST) == before
