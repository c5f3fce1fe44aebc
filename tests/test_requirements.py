"""What Quintet itself requires: pinned by hash, wheels only, and audited."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
import yaml

from tests.test_bundle import wheel
from tests.topology import ROOT

LOCKED = ["app/producer/requirements.txt", "app/service/requirements.txt", "requirements-dev.txt", "requirements.txt"]
# Those of the controller, for pip; bundle.py takes nothing but wheels of itself.
OURS = ["requirements-dev.txt", "requirements.txt"]
WHEELS_ONLY = "--only-binary :all:"
PIN = re.compile(r"[a-z0-9-]+==[a-z0-9.]+( ; [^#]+?)?( --hash=sha256:[0-9a-f]{64})+")


def requirements(text):
    """The lines of a requirements file that count, each whole."""
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [line for line in lines if line and not line.lstrip().startswith("#")]


def unpinned(text):
    """Those that are not one version with its hashes."""
    return [line for line in requirements(text) if line != WHEELS_ONLY and not PIN.fullmatch(line)]


@pytest.mark.parametrize("path", LOCKED)
def test_every_requirement_is_pinned_by_hash(path):
    text = (ROOT / path).read_text()
    assert len(requirements(text)) > 10
    assert not unpinned(text)
    assert path not in OURS or WHEELS_ONLY in requirements(text)


HASH = f"--hash=sha256:{'0' * 64}"


@pytest.mark.parametrize(
    "line",
    [
        "thing==1.0",
        "thing==1.0 ; python_version < '3.12'",
        "thing==1.0 \\\n    --hash=sha256:0123",
        f"thing>=1.0 {HASH}",
        f"thing==1.* {HASH}",
        f"thing @ https://example.org/thing.whl {HASH}",
        "--extra-index-url https://example.org/",
        "-r other.txt",
    ],
)
def test_a_requirement_that_is_not_pinned_is_found(line):
    good = f"thing==1.0 ; python_version < '3.12' \\\n    {HASH} \\\n    {HASH}\n    # via other\n"
    assert not unpinned(good)
    assert unpinned(f"{good}{line}\n{good}") == [line.replace(" \\\n   ", "")]


def test_whatever_is_required_is_locked():
    found = subprocess.check_output(["git", "ls-files", "*requirements*.in"], cwd=ROOT, text=True).split()
    assert sorted(path.replace(".in", ".txt") for path in found) == LOCKED
    assert set(re.findall(r"\S+\.in\b", (ROOT / "tests/lock.sh").read_text())) >= set(found)


def test_our_projects_insist_on_hashes():
    entries = yaml.safe_load((ROOT / "inventories/group_vars/all/project.yml").read_text())["django_projects"]
    assert {entry["source"]["path"]: entry["dependencies"].get("require_hashes") for entry in entries} == {
        "app/producer": True,
        "app/service": True,
    }


@pytest.mark.parametrize("pinned", [True, False])
def test_the_controller_insists_on_hashes(tmp_path, pinned):
    hashes = wheel(tmp_path, "thing")
    (tmp_path / "requirements.txt").write_text(f"thing==1.0{hashes if pinned else ''}\n")
    pip = tmp_path / ".venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@"\n')
    pip.chmod(0o755)
    offline = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    result = subprocess.run(
        ["bash", ROOT / "playbooks/nodes/venv.sh", sys.executable, "requirements.txt"],
        cwd=tmp_path,
        env=os.environ | offline | {"PIP_TARGET": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
    )
    assert (result.returncode == 0) == pinned, result.stderr
    assert (tmp_path / "installed/thing.py").exists() == pinned
    assert pinned or "--hash" in result.stderr


# -- The audit ---------------------------------------------------------------------------------------------------------

KNOWN = {"id": "OSV-2026-1", "summary": "It leaks.", "affected": [{"package": {"name": "bad", "ecosystem": "PyPI"}}]}


@pytest.fixture
def osv():
    """A service that knows something of `bad`, is broken when it is asked for `broken`, and goes away for `gone`."""
    asked = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self):
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            name = query["package"]["name"]
            asked.append((name, query["version"]))
            if name == "gone":
                self.close_connection = True
                return
            answer = b"<html>" if name == "portal" else json.dumps({"vulns": [KNOWN]} if name == "bad" else {}).encode()
            self.send_response(500 if name == "broken" else 200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/", asked=asked)
        server.shutdown()


@pytest.fixture
def audit(tmp_path):
    """Audit files, each of packages that are pinned by hash: gives the finished process."""

    def run(url, *files, env=(), hashes=f" {HASH}"):
        for number, names in enumerate(files):
            lines = "".join(f"{name}==1.0{hashes}\n" for name in names.split())
            (tmp_path / f"{number}.txt").write_text(f"{WHEELS_ONLY}\n{lines}")
        paths = [tmp_path / f"{number}.txt" for number in range(len(files))]
        return subprocess.run(
            [sys.executable, "-m", "tests.audit", f"--osv-url={url}", "--timeout=1", *paths],
            cwd=ROOT,
            env=os.environ | {"no_proxy": "*"} | dict(env),
            capture_output=True,
            text=True,
        )

    return run


def test_what_is_known_fails(audit, osv):
    result = audit(osv.url, "good bad", "good other")
    assert result.returncode == 1
    assert "OSV-2026-1" in result.stdout
    assert "1.txt: No known vulnerabilities found" in result.stderr
    assert osv.asked == [("good", "1.0"), ("bad", "1.0"), ("good", "1.0"), ("other", "1.0")]


def test_nothing_known_is_well(audit, osv):
    result = audit(osv.url, "good", "other")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("No known vulnerabilities found") == 2
    assert "skipped" not in result.stderr


def test_what_was_found_counts_though_the_service_goes_away(audit, osv):
    result = audit(osv.url, "bad", "gone")
    assert result.returncode == 1
    assert "OSV-2026-1" in result.stdout
    assert "audit skipped" in result.stderr


@pytest.fixture
def silent():
    """A port that takes no connection, and refuses none."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


AWAY = {
    "refused": ("http://127.0.0.1:9/", {}),
    "no such name": ("https://osv.invalid/", {}),
    "a proxy that is away": ("https://osv.invalid/", {"https_proxy": "http://127.0.0.1:9", "no_proxy": ""}),
    "no answer": ("http://127.0.0.1:{silent}/", {}),
}


@pytest.mark.parametrize("name", AWAY)
def test_an_audit_whose_service_is_away_is_skipped(audit, silent, name):
    url, env = AWAY[name]
    result = audit(url.format(silent=silent), "bad", "bad", env=env)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "audit skipped, its service cannot be reached: " in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        ("broken", {}, "500"),
        ("portal", {}, "JSONDecodeError"),
        ("good", {"hashes": ""}, "does not contain a hash"),
        ("good", {"tls": True}, "SSLError"),
    ],
)
def test_whatever_else_goes_wrong_fails(audit, osv, names, options, says):
    url = osv.url.replace("http:", "https:") if options.pop("tls", False) else osv.url
    result = audit(url, names, **options)
    assert result.returncode == 1
    assert says in result.stderr
    assert "skipped" not in result.stderr


def test_lint_audits_whatever_is_locked():
    told = subprocess.check_output(["make", "--dry-run", "lint"], cwd=ROOT, text=True)
    patterns = re.search(r"python -m tests\.audit (.*)", told)[1].split()
    assert sorted(str(path.relative_to(ROOT)) for one in patterns for path in ROOT.glob(one)) == LOCKED
