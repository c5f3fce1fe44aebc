"""The scripts before the first playbook: what is missing is one sentence with the remedy, and the status is not 0.

They run with a PATH of a few tools and of stand-ins, so that nothing is installed and no engine is touched.
"""

import shutil
import subprocess
import sys

import pytest

from tests.topology import ROOT

NODES = ROOT / "playbooks" / "nodes"
TOOLS = ["bash", "cat", "cp", "cut", "dirname", "find", "mkdir", "mktemp", "rm", "seq", "sha256sum", "sort", "tail"]
FAILS, WORKS = "exit 1", "exit 0"
# This Python, which thinks that it is older.
OLD_PYTHON = f"""test "$1" = --version && echo Python 3.10.12 && exit 0
exec {sys.executable} -c "import sys; sys.version_info = (3, 10, 12); $2\""""
# One that is made without the module that makes virtual environments.
BARE_PYTHON = 'case "$2" in *venv*) exit 1 ;; esac'
USER, ROOT_USER = "echo 1000", "echo 0"


@pytest.fixture
def run(tmp_path):
    """Run a script where only TOOLS and these stand-ins, by name, are installed."""

    def run(script, *arguments, **stand_ins):
        tools = tmp_path / "bin"
        tools.mkdir()
        for name in TOOLS:
            (tools / name).symlink_to(shutil.which(name))
        for name, text in stand_ins.items():
            path = tools / name.replace("_", "-")
            path.write_text(f"#!{shutil.which('bash')}\n{text}\n")
            path.chmod(0o755)
        environment = {"PATH": str(tools), "TMPDIR": str(tmp_path)}
        return subprocess.run(
            [tools / "bash", NODES / script, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


FAILURES = {
    "no engine, not root": (["engine.sh"], {"id": USER}, ["no Docker Engine", "sudo apt-get install docker.io"]),
    "no engine for this user": (
        ["engine.sh"],
        {"id": USER, "docker": FAILS},
        ["No Docker Engine answers to this user", "usermod -aG docker"],
    ),
    "no engine, root, not Debian": (["engine.sh"], {"id": ROOT_USER}, ["no apt-get", "Install Docker Engine"]),
    "no mmdebstrap, not root": (
        ["image.sh"],
        {"id": USER, "docker": FAILS},
        ["mmdebstrap", "sudo apt-get install mmdebstrap", "NODE_BASE_IMAGE=debian:trixie"],
    ),
    "no mmdebstrap, root, not Debian": (["image.sh"], {"id": ROOT_USER, "docker": FAILS}, ["mmdebstrap"]),
    "no python": (["venv.sh", "python3", "x.txt"], {}, ["There is no python3", "Install Python 3.11"]),
    "an old python": (
        ["venv.sh", "python3", "x.txt"],
        {"python3": OLD_PYTHON},
        ["Python 3.10.12 is too old", "make PYTHON="],
    ),
    "no services": (
        ["../../tests/services.sh", "status"],
        {"docker": FAILS},
        ["do not run", "tests/services.sh start"],
    ),
    "services without a command": (["../../tests/services.sh"], {}, ["start", "stop", "status"]),
    "a python without venv": (
        ["venv.sh", "python3", "x.txt"],
        {"python3": BARE_PYTHON, "id": USER},
        ["python3 has no venv module", "sudo apt-get install python3-venv"],
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failure_is_one_sentence_with_the_remedy(run, name):
    arguments, stand_ins, says = FAILURES[name]
    result = run(*arguments, **stand_ins)
    assert result.returncode == 1
    assert not [said for said in says if said not in result.stderr], result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("quintet: ")
    assert line.endswith((".", ").", ")"))


def test_an_engine_that_answers_needs_nothing(run):
    result = run("engine.sh", docker=WORKS)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_an_image_that_is_there_is_named(run):
    result = run("image.sh", docker=WORKS)
    assert result.returncode == 0
    assert result.stdout.startswith("quintet-node:trixie-")
    assert not result.stderr


def test_pip_that_fails_is_said(run, tmp_path):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/pip").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / ".venv/bin/pip").chmod(0o755)
    result = run("venv.sh", sys.executable, "x.txt")
    assert result.returncode == 1
    assert "pip could not install x.txt" in result.stderr


def test_a_topology_that_does_not_exist():
    command = ["make", "topology", "TOPOLOGY=quintett"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "there is no topology 'quintett'" in result.stderr
    assert "onebox quintet" in result.stderr
