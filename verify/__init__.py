"""What is true of a deployed stack, seen from where it matters. Expected values come from the rendered contract.

The stack is the one of the inventory in ANSIBLE_INVENTORY (and QUINTET_STACK), as Molecule sets them.
"""

import contextlib
import json
import os
import re
import shlex
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import docker
import requests
import testinfra
from requests.adapters import HTTPAdapter

from tests.topology import ROOT, Topology

TOPOLOGY = Topology.of_environment()
# The first web host: where contract values without an opinion on the host are rendered.
FIRST = TOPOLOGY.hosts("web")[0]


def contract(expression, host=FIRST, **more):
    """A value of the contract."""
    return TOPOLOGY.render(host, expression, **more)


# Where people find the application: by the address of its edge or else of its first host, and by a name.
NAME = contract("app_hostnames[0]")
BASE = f"{'https' if contract('https_here') else 'http'}://{contract('front_address')}:{contract('edge_ports[-1]')}"


class Named(HTTPAdapter):
    """Reaches a host by its address, and insists on a certificate for the name."""

    def init_poolmanager(self, *arguments, **more):
        super().init_poolmanager(*arguments, server_hostname=NAME, assert_hostname=NAME, **more)


def visitor():
    """A session of requests to BASE, as those of somebody who asks for NAME and trusts our authority."""
    session = requests.Session()
    session.trust_env = False
    session.headers["Host"] = NAME
    session.verify = f"{contract('secrets_dir')}/tls/authorities.pem"
    session.mount("https://", Named())
    return session


def node(name):
    """A host, by its inventory name."""
    return testinfra.get_host(TOPOLOGY.backend(name))


def together(names, command):
    """Run a command on several hosts at once: some daemons start only when most of their peers do."""
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: node(name).check_output(command), names))


def container(name):
    """The container that a host is, by its inventory name."""
    return docker.from_env().containers.get(contract("node_name", name))


@contextlib.contextmanager
def killed(name):
    """A host without power, for a while; its disk stays."""
    container(name).kill()
    try:
        yield
    finally:
        container(name).start()


@contextlib.contextmanager
def _dropped(name, hook, device, address):
    rules = f"{device} lo accept; ip {address} {contract('node_network')}.0/24 drop"
    chain = f"chain {hook} {{ type filter hook {hook} priority -300; {rules}; }}"
    node(name).check_output(f'nft "table inet dropped {{ {chain}; }}"')
    try:
        yield
    finally:
        node(name).check_output("nft delete table inet dropped")


def deaf(name):
    """A host that hears nobody, for a while: no connection is closed."""
    return _dropped(name, "input", "iifname", "saddr")


def mute(name):
    """A host that nobody hears, for a while."""
    return _dropped(name, "output", "oifname", "daddr")


def exposure(host, unit):
    """systemd's measure of a unit's rights: 0 has none at all, and 10 all of them."""
    words = node(host).check_output("systemd-analyze security --no-pager %s | tail -n 1", unit)
    return float(re.search(r"exposure level .*: ([\d.]+)", words)[1])


def python_of(project, host, source, **arguments):
    """Run Python with a project's packages on a host; its arguments go in as JSON on standard input, as `given`."""
    code = f"import json, sys\ngiven = json.loads({json.dumps(arguments)!r})\n{source}"
    interpreter = f"{contract('projects_directory')}/{project}/current/venv/bin/python"
    return node(host).run(f"{interpreter} - <<'QUINTET'\n{code}\nQUINTET")


def manage(host, *command):
    """A management command on a host, as JSON."""
    result = node(host).run(shlex.join(["quintet-manage", *command]))
    assert result.rc == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def playbook_command(path, *arguments, extra=None, sources=None):
    """The words with which an operator runs a playbook, on this stack unless other inventories are given."""
    words = ["ansible-playbook", *(f"--inventory={source}" for source in sources or TOPOLOGY.sources)]
    return [*words, str(ROOT / "playbooks" / path), *arguments, "--extra-vars", json.dumps(extra or {})]


# No playbook may take longer, on a machine that is slow and busy.
MOST_SECONDS = 1200
# Tests read what a playbook says; Molecule asks for colors wherever CI is set, which would stand between the words.
PLAIN = os.environ | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}


def playbook(path, *arguments, extra=None, sources=None, **environment):
    """Run a playbook as an operator would; gives the finished process."""
    command = playbook_command(path, *arguments, extra=extra, sources=sources)
    # One that hangs is ended with its workers, by who began it.
    ended = ["timeout", "--signal=TERM", "--kill-after=30", str(MOST_SECONDS), *command]
    return subprocess.run(ended, cwd=ROOT, capture_output=True, text=True, env=PLAIN | environment)


def failure(result):
    """What a playbook that failed has said, from its first failure on: what went well before it is too long to read."""
    first = re.search(r"^(\[ERROR\]|fatal:|failed:)", result.stdout, re.MULTILINE)
    return result.stdout[first.start() if first else -4000 :] + result.stderr


def deploy(*arguments, limit=None, extra=None):
    """Deploy; gives its number of changes and its output."""
    result = playbook("deploy.yml", *arguments, *(["--limit", limit] if limit else []), extra=extra)
    assert result.returncode == 0, failure(result)
    return sum(int(count) for count in re.findall(r"changed=(\d+)", result.stdout)), result.stdout


def eventually(check, seconds=60):
    """What `check` returns once it neither raises nor is false; its last failure after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            found = check()
            assert found
            return found
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
