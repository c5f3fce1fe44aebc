"""How long a deploy takes, as ratios measured in one run on fresh nodes.

The floor is the same packages and Python dependencies, installed by plain shell in the same nodes, all of them at
the same time. Both are measured in turn, some rounds long (ROUNDS, 3), because a machine is never quiet for minutes;
medians count. Prints a table; exits with 1 when a ratio is above its goal.
"""

import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ["QUINTET_STACK"] = "bench"

from tests.topology import Topology  # noqa: E402

SOURCES = ("inventories/quintet.yml", "inventories/containers.yml")
GOALS = {"fresh deploy": 1.5, "second deploy": 0.35}
TOPOLOGY = Topology(*SOURCES)
# A plain shell needs it to install what a project requires; a deploy brings that from the controller.
PIP = ["python3-venv"]


def playbook(name, *arguments, sources=SOURCES, **environment):
    """Run a playbook quietly; gives the seconds it took."""
    command = [
        "ansible-playbook",
        *(f"--inventory={source}" for source in sources),
        f"playbooks/{name}.yml",
        *arguments,
    ]
    started = time.monotonic()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment)
    if result.returncode:
        sys.exit(result.stdout + result.stderr)
    return time.monotonic() - started


def plain_shell(host):
    """The commands that install on a host what the deploy installs on it, and nothing more."""
    projects = TOPOLOGY.render(host, "host_projects")
    packages = shlex.join(TOPOLOGY.render(host, "host_packages") + PIP * bool(projects))
    lines = [
        "set -e",
        "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d",
        f"DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends {packages} >/dev/null",
    ]
    for project in projects:
        requirements = (ROOT / project["source"]["path"] / "requirements.txt").read_text()
        lines += [
            f"cat >/tmp/{project['name']}.txt <<'REQUIREMENTS'\n{requirements}\nREQUIREMENTS",
            f"python3 -m venv /opt/{project['name']}",
            f"/opt/{project['name']}/bin/pip install -q --no-input --disable-pip-version-check --require-hashes "
            f"--only-binary :all: -r /tmp/{project['name']}.txt",
        ]
    return "\n".join(lines)


def floor():
    """Seconds until plain shell has installed everything on all hosts, side by side."""

    def install(container, script):
        subprocess.run(["docker", "exec", "-i", container, "bash"], input=script, text=True, check=True)

    containers = [TOPOLOGY.render(host, "node_name") for host in TOPOLOGY.hosts()]
    scripts = [plain_shell(host) for host in TOPOLOGY.hosts()]
    started = time.monotonic()
    with ThreadPoolExecutor(len(containers)) as pool:
        list(pool.map(install, containers, scripts))
    return time.monotonic() - started


def a_round():
    """Seconds of the floor, of a fresh deploy and of a second one, each on nodes of its own."""
    playbook("nodes/destroy")
    playbook("nodes/create")
    seconds = {"floor": floor()}
    playbook("nodes/destroy")
    playbook("nodes/create")
    # Fresh is the controller, too: nothing bundled yet, and no package fetched.
    shutil.rmtree(ROOT / ".cache", ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache:
        seconds["fresh deploy"] = playbook("deploy", UV_CACHE_DIR=cache)
    seconds["second deploy"] = playbook("deploy")
    playbook("nodes/destroy")
    print(json.dumps({name: round(took, 1) for name, took in seconds.items()}), flush=True)
    return seconds


def main():
    rounds = [a_round() for _ in range(int(os.environ.get("ROUNDS", "3")))]
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    failed = False
    for name, took in medians.items():
        ratio, goal = took / medians["floor"], GOALS.get(name)
        failed |= goal is not None and ratio > goal
        print(f"{name:14} {took:6.1f} s  {ratio:5.2f}" + (f"  goal {goal}" if goal else ""))
    sys.exit(failed)


if __name__ == "__main__":
    main()
