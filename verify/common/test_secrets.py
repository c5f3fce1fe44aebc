"""A whole deploy with new secrets, watched: they are in no command line, no log, no output, no file for everybody."""

import json
import os
import random
import secrets
import signal
import subprocess
import sys

import pytest

from tests.topology import ROOT
from verify import TOPOLOGY, contract, deploy, node, playbook, playbook_command
from verify.tiers import CLUSTERED

SEARCHED = "/etc /opt /root /run /srv /tmp /usr/local /var"
# Looks at the command line of every process on this machine, which has the hosts' as well, as often as it can. A
# process is looked at many times, since between fork and exec it has its parent's. Each new line says who had a secret.
WATCH = """
import os, sys, time
secrets = [line.encode() for line in sys.stdin.readline().split()]
times, looks = {}, 0
print("ready", flush=True)
while True:
    looks += 1
    there = {name for name in os.listdir("/proc") if name.isdigit()}
    times = {name: count for name, count in times.items() if name in there}
    for name in there:
        if times.get(name, 0) >= 50:
            continue
        times[name] = times.get(name, 0) + 1
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read()
        except OSError:
            continue
        if any(secret in words for secret in secrets):
            print("found", name, words.replace(b"\\0", b" ")[:300], flush=True)
    time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """New secrets of every kind, in a file; afterwards the stack has its own again."""

    def new(name):
        return f"planted{secrets.token_hex(8)}{name}"

    # Nodes of a cluster with another cookie would be strangers to those that have not got it yet.
    alone = [] if CLUSTERED else ["broker_cookie"]
    values = {name: new(name) for name in ("broker_password", "monitor_password", *alone)}
    for name in ("broker_passwords", "database_passwords", "redis_passwords", "django_secret_keys"):
        values[name] = {key: new(key) for key in contract(name)}
    values["broker_passwords"][contract("broker_user")] = values["broker_password"]
    path = tmp_path_factory.mktemp("secrets") / "planted.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(values))
    yield path, [one for value in values.values() for one in (value.values() if isinstance(value, dict) else [value])]
    deploy()


def watcher(wanted):
    """The process that looks for them, when it has begun."""
    process = subprocess.Popen([sys.executable, "-c", WATCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdin.write(" ".join(wanted) + "\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"
    return process


def findings(process):
    """What it has found until now."""
    process.terminate()
    return process.communicate()[0].splitlines()


@pytest.mark.slow
def test_a_deploy_tells_nobody(planted):
    path, values = planted
    since = {host: node(host).check_output("date '+%Y-%m-%d %H:%M:%S'") for host in TOPOLOGY.hosts()}
    process = watcher(values)
    try:
        result = playbook("deploy.yml", "--diff", "-vv", "--extra-vars", f"@{path}")
    finally:
        found = findings(process)
    words = result.stdout + result.stderr
    assert result.returncode == 0, words[-5000:]
    assert "changed=0" not in words.partition("PLAY RECAP")[2].splitlines()[1]
    assert found == []
    assert [value for value in values if value in words] == []
    assert "PRIVATE KEY" not in words
    files = 0
    for host in TOPOLOGY.hosts():
        machine, pattern = node(host), "planted[0-9a-f]{16}"
        journal = machine.check_output(f"journalctl --since '{since[host]}' --output cat")
        assert journal
        assert not [value for value in values if value in journal]
        everywhere = machine.run(f"grep -rlE --exclude-dir=venv {pattern} {SEARCHED} 2>/dev/null").stdout.split()
        files += len(everywhere)
        assert [name for name in everywhere if machine.file(name).mode & 0o004] == []
        assert [name for name in everywhere if name.startswith(("/tmp/", "/var/tmp/", "/root/", "/var/log/"))] == []
    assert files, "they are somewhere, and this way of looking does not find them"


# How often, and with which random numbers.
KILLS, SEED = int(os.environ.get("KILLS", "1")), int(os.environ.get("SEED", "1"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(KILLS))
def test_a_deploy_that_was_killed_is_put_right_by_the_next(planted, number):
    """With all its processes here, at any moment: some hosts, and some tiers of a host, have the new secrets."""
    seconds = random.Random(SEED + number).uniform(5, 20 + 5 * len(TOPOLOGY.hosts()))
    print(f"SEED={SEED + number}: killed after {seconds:.1f} s")
    command = playbook_command("deploy.yml", "--extra-vars", f"@{planted[0]}")
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    deploy()
    assert deploy()[0] == 0


def test_the_watcher_finds_who_tells():
    process = watcher(["planted-for-this"])
    subprocess.run(["true", "planted-for-this"], check=True)
    subprocess.run([sys.executable, "-c", "import time; time.sleep(0.1)", "planted-for-this"], check=True)
    found = findings(process)
    assert found, "a process of a tenth of a second was missed"
    assert str(os.getpid()) not in found
