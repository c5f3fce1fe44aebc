"""What is true of a deployed stack, seen from where it matters. Expected values come from the rendered contract.

The stack is the one of the inventory in ANSIBLE_INVENTORY (and QUINTET_STACK), as Molecule sets them.
"""

import json
import re
import shlex
import subprocess
import time

import testinfra

from tests.topology import ROOT, Topology

TOPOLOGY = Topology.of_environment()
# The first web host: where contract values without an opinion on the host are rendered.
FIRST = TOPOLOGY.hosts("web")[0]


def contract(expression, host=FIRST, **more):
    """A value of the contract."""
    return TOPOLOGY.render(host, expression, **more)


def node(name):
    """A host, by its inventory name."""
    return testinfra.get_host(TOPOLOGY.backend(name))


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


def playbook(path, *arguments, extra=None):
    """Run a playbook as an operator would; gives the finished process."""
    command = ["ansible-playbook", *(f"--inventory={source}" for source in TOPOLOGY.sources)]
    command += [str(ROOT / "playbooks" / path), *arguments, "--extra-vars", json.dumps(extra or {})]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def deploy(*arguments, limit=None, extra=None):
    """Deploy; gives its number of changes and its output."""
    result = playbook("deploy.yml", *arguments, *(["--limit", limit] if limit else []), extra=extra)
    assert result.returncode == 0, result.stdout + result.stderr
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
