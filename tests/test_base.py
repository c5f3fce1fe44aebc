"""What every host has: prepare.sh, on a hosts file and with package tools of the test's own."""

import os
import subprocess

import pytest

from tests.topology import ROOT

PREPARE = (ROOT / "roles/base/files/prepare.sh").read_text()
BEFORE = "127.0.0.1 localhost\n# BEGIN quintet\n10.0.0.9 old\n# END quintet\n10.0.0.1 own\n"
NAMES = "10.0.0.2 postgresql.test\n10.0.0.3 redis.test"
AFTER = f"127.0.0.1 localhost\n10.0.0.1 own\n# BEGIN quintet\n{NAMES}\n# END quintet\n"
TOOLS = {
    "dpkg-query": "sed 's/.*/installed/' installed",
    "apt-get": """echo "$SYSTEMD_OFFLINE apt-get $*" >>calls
[ ! -e broken ] || { cat broken; exit 100; }
case $* in *update) ;; *) printf 'nginx\\nredis\\n' >installed ;; esac""",
    "dpkg": 'echo "$SYSTEMD_OFFLINE dpkg $*" >>calls; rm broken',
    "systemctl": 'echo "systemctl $*" >>calls',
}


@pytest.fixture
def prepare(tmp_path):
    """Runs it with packages and names, and gives the finished process."""
    (tmp_path / "bin").mkdir()
    for name, program in TOOLS.items():
        tool = tmp_path / "bin" / name
        tool.write_text(f"#!/bin/sh\n{program}\n")
        tool.chmod(0o755)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/Packages").touch()
    (tmp_path / "hosts").write_text(BEFORE)
    (tmp_path / "installed").write_text("nginx\n")
    (tmp_path / "calls").touch()
    program = PREPARE.replace("/etc/hosts", "hosts").replace("/var/lib/apt/lists", "lists")

    def run(change="yes", packages=("nginx", "redis"), names=NAMES):
        environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SYSTEMD_OFFLINE": ""}
        command = ["sh", "-c", program, "prepare.sh", change, names, *packages]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_what_is_missing_is_installed_and_names_are_written_once(prepare, tmp_path):
    first = prepare()
    assert (first.returncode, first.stdout) == (0, "install nginx redis\nwrite hosts\n")
    assert (tmp_path / "hosts").read_text() == AFTER
    install, reload = (tmp_path / "calls").read_text().splitlines()
    # No service is started by its package.
    assert install.startswith("1 apt-get")
    assert install.endswith("install nginx redis")
    assert reload == "systemctl daemon-reload"
    second = prepare()
    assert (second.returncode, second.stdout) == (0, "")
    assert len((tmp_path / "calls").read_text().splitlines()) == 2
    assert sorted(os.listdir(tmp_path)) == ["bin", "calls", "hosts", "installed", "lists"]


def test_check_mode_only_says_so(prepare, tmp_path):
    assert prepare(change="no").stdout == "install nginx redis\nwrite hosts\n"
    assert (tmp_path / "hosts").read_text() == BEFORE
    assert (tmp_path / "calls").read_text() == ""


def test_lists_are_fetched_where_there_are_none_or_old_ones(prepare, tmp_path):
    (tmp_path / "lists/Packages").unlink()
    assert prepare().returncode == 0
    assert "apt-get --quiet update" in (tmp_path / "calls").read_text()
    (tmp_path / "installed").write_text("nginx\n")
    (tmp_path / "lists/Packages").touch()
    os.utime(tmp_path / "lists", (0, 0))
    assert prepare().returncode == 0
    assert (tmp_path / "calls").read_text().count("update") == 2


def test_what_apt_says_is_heard(prepare, tmp_path):
    (tmp_path / "broken").write_text("E: no such package")
    result = prepare()
    assert result.returncode != 0
    assert "E: no such package" in result.stdout
    assert (tmp_path / "hosts").read_text() == BEFORE


def test_what_was_interrupted_is_finished(prepare, tmp_path):
    (tmp_path / "broken").write_text(
        "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct it"
    )
    assert prepare().returncode == 0
    calls = [line.split()[1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert calls == ["apt-get", "dpkg", "apt-get", "daemon-reload"]
    assert (tmp_path / "hosts").read_text() == AFTER
