"""Which hosts may go, for a while (`reboot`) or for good (`scale`), in each topology."""

import pytest
import yaml
from ansible.template import trust_as_template

from tests.topology import ROOT


def variables(name):
    """The variables of a runbook's plays and tasks, by their names."""
    found = {}
    for play in yaml.safe_load((ROOT / f"playbooks/runbooks/{name}/playbook.yml").read_text()):
        for part in [play, *play.get("tasks", [])]:
            found |= {name: trust_as_template(value) for name, value in part.get("vars", {}).items() if "{" in value}
    return found


SCALE, REBOOT = variables("scale"), variables("reboot")


def bad(topology, leaving, **asked):
    return topology.render(topology.hosts("web")[0], "scale_bad", **(SCALE | {"scale_leaving": leaving} | asked))


@pytest.mark.parametrize(
    ("name", "leaving", "says"),
    [
        ("quintet", "web1", ["web1 is the only web host of producer: add another one first"]),
        (
            "quintet",
            "postgresql1",
            ["postgresql1 is of postgresql, and there is no other: what it has would be nowhere"],
        ),
        ("ha", "web1", []),
        ("ha", "worker2", []),
        ("ha", "data1", ["data1 is of etcd, of which each host counts"]),
        ("ha", "edge2", ["edge2 is of edge, of which each host counts"]),
        ("onebox", "box1", ["box1 is of postgresql, and there is no other", "box1 is the only web host of producer"]),
        ("apart", "etcd1", ["etcd1 is of etcd, of which each host counts"]),
        ("apart", "redis1", ["redis1 is of redis, of which each host counts"]),
        ("apart", "postgresql1", ["postgresql1 is of postgresql, which has 3 hosts: of fewer none could be lost."]),
        ("apart", "rabbitmq5", ["rabbitmq5 is of rabbitmq: what it has is thrown away, as the others have it."]),
        ("wide", "web2", []),
        ("wide", "worker9", ["Say -e scale_leaving=..., a host that the inventory still has: "]),
    ],
)
def test_whose_absence_nobody_bears_does_not_leave(request, name, leaving, says):
    found = bad(request.getfixturevalue(name), leaving)
    assert bool(found) == bool(says)
    for one in says:
        assert any(sentence.startswith(one) for sentence in found), found


def test_who_has_data_leaves_where_three_stay_and_it_is_meant(apart):
    assert bad(apart, "rabbitmq5", confirm="rabbitmq5") == []
    [sentence] = bad(apart, "rabbitmq5", confirm="rabbitmq4")
    assert sentence.endswith("say -e confirm=rabbitmq5")
    assert len(bad(apart, "postgresql1", confirm="postgresql1")) == 1


def test_the_next_worker_of_a_project_sends_what_is_due(wide):
    workers = wide.hosts("worker")
    projects = [
        {"name": "clock", "worker": {"beat": {}}, "worker_hosts": workers},
        {"name": "elsewhere", "worker": {"beat": {}}, "worker_hosts": workers[1:]},
        {"name": "timeless", "worker": {}, "worker_hosts": workers},
        {"name": "page", "worker_hosts": []},
    ]
    beats = {
        host: wide.render(host, "scale_beats", **(SCALE | {"scale_leaving": workers[0], "projects": projects}))
        for host in workers
    }
    assert beats.pop(workers[1]) == [{"name": "beat-clock.service"}]
    assert set(map(len, beats.values())) == {0}


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("quintet", ["postgresql1", "web1"]),
        ("onebox", ["box1"]),
        ("ha", []),
        ("wide", ["data1"]),
        ("edged", ["data1"]),
    ],
)
def test_whose_boot_interrupts_is_known(request, name, alone):
    topology = request.getfixturevalue(name)
    found = topology.render(topology.hosts("web")[0], "reboot_alone", **REBOOT, ansible_play_hosts_all=topology.hosts())
    assert found == alone
