"""Every secret is replaced under a stream of jobs and visits: nobody is refused, nothing is lost, no old one good."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.topology import ROOT
from verify import TOPOLOGY, contract, deploy, failure, manage, node, playbook, playbook_command
from verify.common.test_encryption import LINKS, handshake
from verify.common.test_postgresql import connect, url
from verify.common.test_rabbitmq import login, whoami
from verify.common.test_redis import URLS, talk
from verify.stream import Stream, assert_nothing_lost
from verify.tiers import CLUSTERED, database_host, sql
from verify.visits import Visits

RUNBOOK = "runbooks/rotate_secrets/playbook.yml"
WEB, WORKER, BROKER = (TOPOLOGY.hosts(group)[0] for group in ("web", "worker", "rabbitmq"))
DIRECTORY = Path(contract("secrets_dir"))
# Of everything; and of one request, which waits while gunicorn starts.
MOST_SECONDS, SLOWEST_SECONDS = 300, 20
MUTUAL = [link for link in LINKS if link[3]]
SIGN = "import json; from django.core import signing; print(json.dumps(signing.dumps('x')))"
CHECK = """
import json, sys
from django.core import signing
try:
    print(json.dumps(signing.loads({signed!r})))
except signing.BadSignature:
    print(json.dumps("refused"))
"""


def rotate(**asked):
    return playbook(RUNBOOK, extra=asked)


def words(result):
    return " ".join(result.stdout.split())


def secrets():
    """What is secret, by the name of its file."""
    return {path.name: path.read_text().strip() for path in DIRECTORY.iterdir() if "_" in path.name}


def python(command):
    return manage(WEB, "producer", "shell", "--no-imports", "--command", command)


def admitted(known, identity):
    """Who is let in with these secrets, by the name of their files."""
    vhost, place = contract("broker_vhost"), contract("service_names.database")
    found = {
        "broker_password": "tags" in whoami(contract("broker_user"), known["broker_password"]),
        "monitor_password": "tags" in whoami("monitor", known["monitor_password"]),
        "tls": "names" in (seen := handshake(MUTUAL[0], identity=identity)) and not seen.get("closed"),
    }
    for project in contract("project_names"):
        name = f"broker_password_{project}"
        found[name] = login(project, known[name], vhost) == "admitted"
        for role, host in ((project, WORKER), (f"{project}_owner", None)):
            first = next(one for one in contract("projects") if one["name"] == project)["hosts"][0]
            name, at = f"database_password_{role}", host or first
            one = f"postgresql://{role}:{known[name]}@{place}:{contract('database_port')}/{project}"
            found[name] = connect(at, project, one).endswith(f"@{project}")
    user = contract("projects")[0]["name"]
    name = f"redis_password_{user}"
    place = URLS["results"].rpartition("@")[2]
    found[name] = talk(f"redis://{user}:{known[name]}@{place}", ["PING"]) == ["True"]
    if not CLUSTERED:
        ping = node(BROKER).run("rabbitmqctl --quiet --erlang-cookie %s status", known["broker_cookie"])
        found["broker_cookie"] = ping.rc == 0
    return found


@pytest.fixture(scope="module")
def rotated():
    """All, under load: secrets, certificate and a signature of before, the seconds, the stream and the visits."""
    before, identity, signed = secrets(), contract("tls_identity", WEB), python(SIGN)
    assert set(admitted(before, identity).values()) == {True}
    with Stream() as stream, Visits() as visits:
        began = time.monotonic()
        result = rotate()
        seconds = time.monotonic() - began
        time.sleep(3)
    assert result.returncode == 0, failure(result)
    print(f"{seconds:.0f} s, {len(stream.answers)} jobs, {visits}")
    return before, identity, signed, seconds, stream, visits


def test_nobody_is_refused_and_nothing_is_lost(rotated):
    *_, stream, visits = rotated
    assert len(stream.intents) > 100
    assert visits.failed == [], visits
    assert_nothing_lost(stream, slowest=SLOWEST_SECONDS)


def test_it_takes_five_minutes_at_most(rotated):
    assert rotated[3] < MOST_SECONDS


def test_the_old_ones_are_refused_and_the_new_ones_are_good(rotated):
    before, identity, signed, *_ = rotated
    after = secrets()
    stay = {"redis_internal_password", "backup_passphrase"} | ({"broker_cookie"} if CLUSTERED else set())
    assert {name for name, value in after.items() if before[name] == value} == stay
    new = admitted(after, contract("tls_identity", WEB))
    assert set(new.values()) == {True}, new
    old = admitted(before, identity)
    assert {name for name, fine in old.items() if fine} == set(), old
    assert python(CHECK.format(signed=signed)) == "refused"
    assert python(CHECK.format(signed=python(SIGN))) == "x"


@pytest.mark.usefixtures("rotated")
def test_nothing_is_left_of_the_overlap_and_a_deploy_has_nothing_to_do():
    assert not (DIRECTORY / "rotation.json").exists()
    assert sql(database_host(), "SELECT count(*) FROM pg_roles WHERE rolname LIKE '%-next'") == "0"
    assert "-next" not in node(BROKER).check_output("rabbitmqctl --quiet list_users")
    assert [path for path in DIRECTORY.iterdir() if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    assert deploy()[0] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("rotated")
def test_one_that_was_killed_goes_on_and_takes_those_that_were_asked_for_alone():
    """Killed as soon as applications are stand-ins somewhere; a deploy in the middle refuses nobody."""
    before = secrets()
    command = playbook_command(RUNBOOK, extra={"rotate_secrets_only": "database,broker"})
    with Stream() as stream, Visits() as visits:
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            stands_in = "grep -q -- -next: /opt/quintet/producer/environment"
            while node(WEB).run(stands_in).rc and process.poll() is None:
                time.sleep(0.5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        assert json.loads((DIRECTORY / "rotation.json").read_text())["phase"] == 1
        deploy()
        refused = rotate(rotate_secrets_only="redis")
        assert refused.returncode != 0
        assert "A rotation of broker, database is under way" in words(refused)
        result = rotate(rotate_secrets_take_over=True)
        assert result.returncode == 0, failure(result)
    assert visits.failed == [], visits
    assert_nothing_lost(stream, slowest=SLOWEST_SECONDS)
    changed = {name for name, value in secrets().items() if before[name] != value}
    assert changed == {name for name in before if name.startswith(("broker_password_", "database_password_"))}
    assert connect(WEB, "producer", url("producer")) == "producer@producer"
    assert deploy()[0] == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"rotate_secrets_only": "redis,cokie"}, "rotate_secrets_only has cokie. There are broker, database, redis"),
        (
            {"rotate_secrets_only": ["management"], "monitor_password": "from-a-vault"},
            "monitor_password: not from",
        ),
    ],
)
def test_what_cannot_be_is_refused(asked, says):
    before = secrets()
    result = rotate(**asked)
    assert result.returncode != 0
    assert says in words(result)
    assert "from-a-vault" not in result.stdout
    assert secrets() == before
