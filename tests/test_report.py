"""What playbooks/runbooks/status/report.py takes for wrong."""

import json
import re
import runpy
import subprocess
import sys

import pytest

from tests.topology import ROOT

REPORT = ROOT / "playbooks/runbooks/status/report.py"
UNIT = {"state": "active", "since": "Mon 2026-11-23 22:39:04 UTC", "restarts": 0}
HOST = {
    "units": {},
    "versions": {},
    "releases": {},
    "sites": {},
    "certificates": {"/etc/haproxy/identity.pem": {"until": "2028-11-22T22:37:24Z", "days": 700}},
    "disks": {"/": {"free_percent": 50, "free_gb": 5.0}},
    "postgresql": None,
    "backups": None,
    "rabbitmq": None,
    "redis": {},
}
RELEASE = {"release": "aaaaaaaaaaaa", "built": "2026-11-23T22:39:28Z", "kept": 2}
REPLICA = {"state": "streaming", "sync": "quorum", "behind_bytes": 0}
QUEUE = {"vhost": "rabbit", "name": "service", "messages": 5, "consumers": 1}
WELL = {
    "expected": {"producer": ["web1", "worker1"]},
    "drift": None,
    "hosts": {
        "data1": HOST
        | {
            "units": {"postgresql@17-main": UNIT, "rabbitmq-server": UNIT},
            "versions": {"postgresql-17": "17.12"},
            "postgresql": {
                "role": "leader",
                "version": "17.12",
                "replicas": {"data2": REPLICA},
                "counts": {"parked tasks": 3},
                "log_fails_since": None,
            },
            "backups": {"last": "2026-11-23T02:30:09Z", "hours": 20},
            "rabbitmq": {"nodes": ["a", "b"], "running": ["a", "b"], "alarms": [], "partitions": {}, "queues": [QUEUE]},
        },
        "web1": HOST | {"units": {"nginx": UNIT}, "releases": {"producer": RELEASE}, "sites": {"producer": 200}},
        "worker1": HOST | {"units": {"celery-producer": UNIT}, "releases": {"producer": RELEASE}},
    },
}
# What is changed, by its path; and what is said of it.
WRONG = {
    "hosts web1": (None, "web1 cannot be reached"),
    "hosts web1 units nginx state": ("failed", "web1: nginx is failed"),
    "hosts web1 sites producer": (502, "web1: the page of producer answers 502"),
    "hosts worker1 certificates /etc/haproxy/identity.pem days": (20, "/etc/haproxy/identity.pem ends in 20 days"),
    "hosts worker1 disks / free_percent": (9, "worker1: / has 9 % free"),
    "hosts worker1 releases producer release": ("bbbbbbbbbbbb", "producer does not run one release: web1 aaaaaaaaaaaa"),
    "hosts worker1 releases": ({}, "worker1 nothing"),
    "hosts data1 postgresql": (None, "data1: PostgreSQL does not answer"),
    "hosts data1 postgresql role": ("replica", "PostgreSQL has 0 leaders"),
    "hosts data1 postgresql replicas data2 state": ("catchup", "replica data2 is catchup"),
    "hosts data1 postgresql replicas data2 behind_bytes": (2**27, "replica data2 is streaming, 128.0 MiB behind"),
    "hosts data1 backups hours": (49, "data1: the last backup of PostgreSQL was 49 hours ago"),
    "hosts data1 postgresql log_fails_since": ("2026-11-23 20:00", "the log of PostgreSQL does not reach the backups"),
    "hosts data1 rabbitmq": (None, "data1: RabbitMQ does not answer"),
    "hosts data1 rabbitmq running": (["a"], "RabbitMQ: b is not in the cluster"),
    "hosts data1 rabbitmq alarms": (["disk"], "RabbitMQ: alarm disk"),
    "hosts data1 rabbitmq partitions": ({"a": ["b"]}, "RabbitMQ: the cluster is split"),
    "hosts data1 rabbitmq queues": ([QUEUE | {"consumers": 0}], "queue service has 5 messages, and nobody takes them"),
    "drift": (3, "a deploy would change 3 things"),
}


def report(given):
    done = subprocess.run([sys.executable, REPORT], input=json.dumps(given), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_stack_that_is_well():
    said = report(WELL)
    assert (said["ok"], said["wrong"], said["drift"]) == (True, [], None)
    assert said["hosts"] == WELL["hosts"]
    words = "\n".join(said["lines"])
    for line in (
        "web1: disk / 50 % free; first certificate ends in 700 days (2028-11-22)",
        "  release   producer aaaaaaaaaaaa built 2026-11-23T22:39:28Z, 2 kept, page 200",
        "  replica   data2 streaming quorum, 0.0 MiB behind",
        "  count     parked tasks: 3",
        "  backup    the last 2026-11-23T02:30:09Z",
        "  queue     rabbit/service 5 messages, 1 consumers",
    ):
        assert line in words
    assert report(WELL | {"drift": 0})["ok"]


@pytest.mark.parametrize("path", WRONG)
def test_what_is_wrong_is_said(path):
    value, sentence = WRONG[path]
    given = json.loads(json.dumps(WELL))
    *parents, last = path.split()
    place = given
    for name in parents:
        place = place[name]
    place[last] = value
    said = report(given)
    assert not said["ok"]
    assert [one for one in said["wrong"] if sentence in one], said["wrong"]


# -- What is looked at ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "trigger", "state", "detail", "shown"),
    [
        ("redis-server@cache.service", "", "inactive", "dead", True),
        ("epmd.service", "epmd.socket", "inactive", "dead", True),
        ("quintet-etcd-yield.service", "quintet-etcd-yield.timer", "inactive", "dead", False),
        ("quintet-etcd-yield.service", "quintet-etcd-yield.timer", "activating", "start", False),
        ("quintet-etcd-yield.service", "quintet-etcd-yield.timer", "failed", "failed", True),
        ("quintet-backup@diff.service", "quintet-backup-diff.timer", "activating", "auto-restart", True),
    ],
)
def test_what_a_timer_starts_is_down_only_when_it_failed(tmp_path, monkeypatch, unit, trigger, state, detail, shown):
    look = runpy.run_path(str(ROOT / "playbooks/runbooks/status/look.py"))
    # A template's file is of no unit; its instances are listed.
    (tmp_path / re.sub("@.*[.]", "@.", unit)).write_text("[Unit]\nX-Quintet=role\n")
    listed = f"{unit} loaded {state} {detail} Some unit\n" if "@" in unit else ""
    more = "UnitFileState=static\nNRestarts=0\nActiveEnterTimestamp="
    block = f"Id={unit}\nActiveState={state}\nSubState={detail}\n{more}\nTriggeredBy={trigger}\n"
    seen = look["units"].__globals__
    monkeypatch.setitem(seen, "UNITS", str(tmp_path))

    def said(*words, **more):
        if "show" not in words:
            return listed
        return block if unit in words and not any("@." in word for word in words) else ""

    monkeypatch.setitem(seen, "said", said)
    assert look["units"]() == (
        {unit.removesuffix(".service"): {"state": state, "since": "", "restarts": 0}} if shown else {}
    )
