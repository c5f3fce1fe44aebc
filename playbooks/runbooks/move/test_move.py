"""What a smaller stack holds is there after it was moved here, and people had to wait for a moment only."""

import json
import re
import subprocess

import pytest

from tests.topology import ROOT, Topology
from verify import BASE, FIRST, TOPOLOGY, contract, deploy, eventually, failure, manage, node, playbook, visitor
from verify.tiers import sql

RUNBOOK = "runbooks/move/playbook.yml"
STACK = contract("stack")
HOST = TOPOLOGY.hosts("postgresql")[0]
# The stack that is left, on this machine: one host where this is five, and five where this is nine.
LEFT = "molecule-left"
SOURCES = [
    f"{ROOT}/inventories/{name}.yml"
    for name in ("quintet" if len(TOPOLOGY.hosts("postgresql")) > 1 else "onebox", "containers")
]
LEFT_HOST = {tier: Topology(*SOURCES).hosts(tier)[0] for tier in ("postgresql", "rabbitmq", "web")}
# How long people wait at most, where there is little data.
SECONDS = 300
JOBS = "SELECT id, state, result FROM jobs_job"
FILE = "/var/lib/producer/left.txt"
# Somebody asks for a job, and is let in.
ASK = """
import json, sys, urllib.request
head = {"Content-Type": "application/json", "Host": "localhost"}
urllib.request.urlopen(urllib.request.Request("http://127.0.0.1/api/jobs", sys.argv[1].encode(), head), timeout=20)
"""


def left(path, **extra):
    """Run a playbook as the operator of the stack that is left."""
    return playbook(path, extra=extra, sources=SOURCES, QUINTET_STACK=LEFT)


def succeeded(result):
    """The words of a playbook, without its line breaks."""
    assert result.returncode == 0, failure(result)
    return " ".join(result.stdout.split())


def in_the_left(tier, *command):
    """What a command says on the host of a tier of that stack."""
    words = ["docker", "exec", f"{LEFT}-{LEFT_HOST[tier]}", *command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def ask_for_a_job(**more):
    in_the_left("web", "python3", "-c", ASK, json.dumps({"first": "left", "second": "right"} | more))


@pytest.fixture(scope="module")
def jobs():
    """What a stack that is to be left knows of its jobs."""
    try:
        for path in ("nodes/destroy.yml", "nodes/create.yml", "deploy.yml"):
            succeeded(left(path))
        in_the_left("web", "quintet-manage", "producer", "roundtrip")
        in_the_left("web", "runuser", "-u", "producer", "--", "sh", "-c", f"echo left >{FILE}")
        yield lambda: set(
            in_the_left("postgresql", "runuser", "-u", "postgres", "--", "psql", "-XtAc", JOBS, "producer").splitlines()
        )
    finally:
        left("nodes/destroy.yml")


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({}, "Say -e move_way=out"),
        ({"move_way": "out", "move_directory": "here"}, "an absolute path"),
        ({"move_way": "out", "move_directory": "/nowhere/move"}, f"say -e confirm={STACK}"),
        ({"move_way": "in", "move_directory": "/nowhere/move", "confirm": STACK}, "no /nowhere/move/manifest.json"),
    ],
)
def test_what_is_not_clear_is_refused(extra, says):
    result = playbook(RUNBOOK, extra=extra)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
    assert "Have people wait" not in result.stdout


def refused(tmp_path, says):
    """The stack stays, with nothing taken out of it, and people are let in again."""
    result = left(RUNBOOK, move_way="out", confirm=LEFT, move_directory=str(tmp_path), move_minutes=0.2)
    assert result.returncode != 0
    assert re.search(f"minutes there is something in .*{says}", " ".join(result.stdout.split()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_work_that_would_be_left_behind_is_not(jobs, tmp_path):
    ask_for_a_job(delay_seconds=60)
    refused(tmp_path, "/celery_delayed_")
    ask_for_a_job()


@pytest.mark.slow
def test_a_broker_that_does_not_answer_has_not_said_that_nothing_is_left(jobs, tmp_path):
    in_the_left("rabbitmq", "systemctl", "stop", "rabbitmq-server")
    try:
        refused(tmp_path, f"rabbit@{LEFT_HOST['rabbitmq']}")
    finally:
        in_the_left("rabbitmq", "systemctl", "start", "rabbitmq-server")
    ask_for_a_job()


@pytest.mark.slow
def test_all_that_a_stack_holds_is_moved(jobs, tmp_path):
    place = str(tmp_path / "move")
    succeeded(left(RUNBOOK, move_way="out", confirm=LEFT, move_directory=place))
    before = jobs()
    assert before
    said = succeeded(playbook(RUNBOOK, extra={"move_way": "in", "confirm": STACK, "move_directory": place}))
    waited = int(re.search(r"let in (\d+) s after", said)[1])
    print(f"people waited {waited} s")
    assert waited < SECONDS
    found = set(sql(HOST, JOBS, "producer").splitlines())
    assert before <= found
    # Besides, the job that proved it.
    assert len(found - before) <= 2
    for host in contract("projects | selectattr('name', 'eq', 'producer') | map(attribute='hosts') | first"):
        assert node(host).file(FILE).content_string == "left\n"
        assert node(host).file(FILE).user == "producer"
    job = next(iter(before)).split("|")[0]
    assert visitor().get(f"{BASE}/api/jobs/{job}", timeout=10).json()["state"] == "done"
    assert eventually(lambda: manage(FIRST, "producer", "roundtrip")["ok"])
    assert deploy()[0] == 0
