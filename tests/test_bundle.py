"""A bundle: a packed source with what it requires, for hosts of one kind."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.topology import ROOT

UV = Path(sys.executable).parent / "uv"


def wheel(directory, name, tag):
    """A wheel with one module and one command; gives its requirement."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"KIND = {tag!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = directory / f"{name}-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return f" --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def bundle(tmp_path):
    """Bundle a source with these requirements: gives the finished process."""
    (tmp_path / "wheels").mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "manage.py").write_text("print()\n")

    def run(requirements, python="3.13", machine="x86_64"):
        (source / "requirements.txt").write_text(requirements)
        archive = tmp_path / "cache" / "0123456789ab.tar"
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w") as tar:
            for path in source.iterdir():
                tar.add(path, path.name)
        return subprocess.run(
            [ROOT / "roles/django_project/files/bundle.sh", UV, archive, "requirements.txt", python, machine],
            env=os.environ | {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(tmp_path / "wheels"), "UV_NO_CACHE": "1"},
            capture_output=True,
            text=True,
        )

    return run


def test_a_bundle_is_for_the_kind_of_its_hosts(bundle, tmp_path):
    hashes = "".join(
        wheel(tmp_path / "wheels", "thing", tag)
        for tag in ("cp313-cp313-manylinux_2_17_x86_64", "cp313-cp313-manylinux_2_17_aarch64")
    )
    for machine in ("x86_64", "aarch64"):
        result = bundle(f"thing==1.0{hashes}\n", machine=machine)
        assert result.returncode == 0, result.stderr
        path = Path(result.stdout.strip())
        assert path.name == f"0123456789ab-3.13-{machine}.tar.gz"
        with tarfile.open(path) as tar:
            names = set(tar.getnames())
            assert {"source/manage.py", "source/requirements.txt", "packages/thing.py"} <= names
            assert not any(name.startswith("packages/bin") for name in names), "commands of the controller's Python"
            assert machine in tar.extractfile("packages/thing.py").read().decode()
            assert {(member.uid, member.gid) for member in tar} == {(0, 0)}


def test_a_bundle_is_made_once(bundle, tmp_path):
    hashes = wheel(tmp_path / "wheels", "thing", "py3-none-any")
    path = Path(bundle(f"thing==1.0{hashes}\n").stdout.strip())
    made = path.stat().st_mtime_ns
    assert Path(bundle(f"thing==1.0{hashes}\n").stdout.strip()) == path
    assert path.stat().st_mtime_ns == made


@pytest.mark.parametrize("hashes", [" --hash=sha256:" + "0" * 64, ""])
def test_what_is_not_pinned_or_has_another_hash_is_refused(bundle, tmp_path, hashes):
    wheel(tmp_path / "wheels", "thing", "py3-none-any")
    result = bundle(f"thing==1.0{hashes}\n")
    assert result.returncode != 0
    assert "hash" in result.stderr.lower()
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == [".tar"]


def test_the_last_few_bundles_are_kept(bundle, tmp_path):
    hashes = wheel(tmp_path / "wheels", "thing", "py3-none-any")
    for minor in range(6, 14):
        assert bundle(f"thing==1.0{hashes}\n", python=f"3.{minor}").returncode == 0
    kept = {path.name for path in (tmp_path / "cache").glob("*.tar.gz")}
    assert kept == {f"0123456789ab-3.{minor}-x86_64.tar.gz" for minor in range(9, 14)}


@pytest.mark.parametrize(
    ("python", "machine"), [("3.13/../../x", "x86_64"), ("3.13", "../x"), ("", "x86_64"), ("3.13", "$(id)")]
)
def test_what_a_host_says_about_itself_becomes_no_path(bundle, tmp_path, python, machine):
    result = bundle("", python=python, machine=machine)
    assert result.returncode == 1
    assert "a host says" in result.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["0123456789ab.tar"]
