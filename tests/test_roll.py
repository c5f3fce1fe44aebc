"""In which turns the hosts of a project switch to a release, and when they go back."""

import pytest
import yaml
from ansible.template import trust_as_template

from tests.topology import ROOT


def trusted(value):
    """What a file of variables says, with the templates in it."""
    if isinstance(value, dict):
        return {name: trusted(one) for name, one in value.items()}
    return trust_as_template(value) if isinstance(value, str) else value


ROLL, ROTATION = (
    trusted(yaml.safe_load((ROOT / path).read_text()))
    for path in ("playbooks/vars/roll.yml", "playbooks/runbooks/rotate_secrets/secrets.yml")
)
ASKED = {"roll_project": "producer", "roll_release": "aaaaaaaaaaaa", "roll_what": "release"}


def turns(topology, project="producer"):
    """The turns, each as its roles with their hosts."""
    return topology.render(topology.hosts("web")[0], "roll_turns", **(ROLL | ASKED | {"roll_project": project}))


def test_web_hosts_come_first_each_alone_and_then_workers_one_before_the_others(wide, ha, onebox):
    assert turns(wide) == [
        {"web": ["web1"]},
        {"web": ["web2"]},
        {"celery_worker": ["worker1"]},
        {"celery_worker": ["worker2", "web2"]},
    ]
    assert turns(wide, "service") == [{"celery_worker": ["worker1"]}, {"celery_worker": ["worker2", "web2"]}]
    assert [hosts for turn in turns(ha) for hosts in turn.values()] == [["web1"], ["web2"], ["worker1"], ["worker2"]]
    assert turns(onebox) == [{"web": ["box1"]}, {"celery_worker": ["box1"]}]


def test_in_a_rotation_a_web_host_and_workers_switch_together(wide, ha, onebox):
    found = [
        topology.render(topology.hosts("web")[0], "rotate_secrets_turns", **(ROLL | ASKED | ROTATION))
        for topology in (wide, ha, onebox)
    ]
    assert found == [
        [{"web": ["web1"], "celery_worker": ["worker1"]}, {"web": ["web2"], "celery_worker": ["worker2", "web2"]}],
        [{"web": ["web1"], "celery_worker": ["worker1"]}, {"web": ["web2"], "celery_worker": ["worker2"]}],
        [{"web": ["box1"], "celery_worker": ["box1"]}],
    ]


@pytest.mark.parametrize(
    ("web", "workers", "found"),
    [
        (["a", "b", "c"], ["d"], [{"web": ["a"], "celery_worker": ["d"]}, {"web": ["b"]}, {"web": ["c"]}]),
        (["a"], ["b", "c", "d"], [{"web": ["a"], "celery_worker": ["b"]}, {"celery_worker": ["c", "d"]}]),
        (["a"], [], [{"web": ["a"]}]),
    ],
)
def test_in_a_rotation_nobody_is_left_out(quintet, web, workers, found):
    entry = {"roll_entry": {"web_hosts": web, "worker_hosts": workers}}
    assert quintet.render("web1", "rotate_secrets_turns", **(ROLL | ASKED | ROTATION | entry)) == found


FACTS = {"roll_failure": "", "roll_turned": False, "roll_one_way": False}
WRONG = {"roll_failure": "worker1: Switch: it does not start"}


@pytest.mark.parametrize(
    ("facts", "gone", "begun", "back"),
    [
        ({}, [], False, False),
        ({"web1": {"roll_turned": True}}, [], True, False),
        ({"worker1": WRONG}, [], False, False),
        ({"web1": {"roll_turned": True}, "worker1": WRONG}, [], True, True),
        ({"web1": {"roll_turned": True, "roll_one_way": True}, "worker1": WRONG}, [], True, False),
        ({"web1": {"roll_turned": True}}, ["worker1"], True, True),
    ],
)
def test_what_goes_wrong_after_the_first_turn_is_switched_back(quintet, facts, gone, begun, back):
    hosts = ["web1", "worker1"]
    play = {
        "hostvars": {host: FACTS | facts.get(host, {}) for host in hosts},
        "ansible_play_hosts_all": hosts,
        "ansible_play_hosts": [host for host in hosts if host not in gone],
    }
    found = quintet.render("web1", "[roll_wrong | length > 0, roll_begun, roll_goes_back]", **(ROLL | ASKED | play))
    assert found == [bool(gone) or WRONG in facts.values(), begun, back]
