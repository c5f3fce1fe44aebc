"""What the runbook `diagnose` takes out of what it collects: nothing is asked of a host."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
import zlib
from urllib.parse import quote

import pytest

from tests.samples import UGLY
from tests.topology import ROOT

FOLDER = ROOT / "playbooks/runbooks/diagnose"


def script(name):
    """A script of the runbook, which is no package."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


collect, archive = script("collect"), script("archive")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("amqp://user:pass@host:5672/vhost", "amqp://user:[removed]@host:5672/vhost"),
        ("redis://u:p@ss:w@host/0, and", "redis://u:[removed]@host/0, and"),
        ("https://host/path?at=@", "https://host/path?at=@"),
        ("SECRET_KEY=abc def", "SECRET_KEY=[removed] def"),
        ('{"password": "a b", "user": "c"}', '{"password": [removed], "user": "c"}'),
        ("password: 'a b'\nuser: c", "password: [removed]\nuser: c"),
        ("masterauth abc\nport 0", "masterauth [removed]\nport 0"),
        ("Authorization: Basic abc==", "Authorization: [removed]"),
        ("-----BEGIN EC PRIVATE KEY-----\nab\n-----END EC PRIVATE KEY-----\nc", "[removed]\nc"),
        ("-----BEGIN PRIVATE KEY-----\nab, and no end", "[removed]"),
        ("password authentication failed for user x", "password authentication failed for user x"),
    ],
)
def test_what_has_the_form_of_a_secret_is_removed(text, clean):
    assert collect.without_secrets(text) == clean


@pytest.mark.parametrize("form", [str, lambda one: quote(one, safe=""), json.dumps, repr, quote])
def test_a_known_secret_is_removed_in_each_form(form):
    assert archive.pattern([UGLY, "other secret"]).sub("-", f"x {form(UGLY)} y").strip("'\"") in (
        "x - y",
        'x "-" y',
        "x '-' y",
    )


def test_of_two_secrets_the_longer_one_is_removed_first():
    assert archive.pattern(["secret", "secretive"]).sub("-", "secretive secret") == "- -"


def test_nothing_is_removed_for_want_of_secrets():
    assert archive.pattern(["", "no"]).sub("-", "no secret at all") == "no secret at all"


def test_the_lines_of_a_secret_are_removed_by_themselves():
    assert archive.pattern(["first line\nsecond line\n"]).sub("-", "1 first line 2 second line") == "1 - 2 -"


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_archive_is_its_owners_alone(tmp_path, mask):
    path = tmp_path / "new" / "archive.tar.gz"
    found = base64.b64encode(zlib.compress(json.dumps({"a.txt": "a secret"}).encode())).decode()
    hosts = {"web1": {"found": found, "why": ""}, "web2": {"found": "", "why": "It did not answer."}}
    given = json.dumps({"hosts": hosts, "about": {"stack": "x"}, "secrets": ["secret"]})
    before = os.umask(mask)
    try:
        command = [sys.executable, FOLDER / "archive.py", path]
        told = subprocess.run(command, input=given, text=True, capture_output=True, check=True).stdout
    finally:
        os.umask(before)
    assert told == f"{path}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["archive.tar.gz"]
    with tarfile.open(path) as opened:
        texts = {name: opened.extractfile(name).read().decode() for name in opened.getnames()}
    assert texts["archive/web1/a.txt"] == "a [removed]"
    assert texts["archive/web2/why"] == "It did not answer."
