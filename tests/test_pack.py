"""pack.sh: a release is named by its content: equal content has one name on any machine, other content another."""

import os
import shutil
import subprocess
import tarfile

import pytest

from tests.topology import ROOT

PACK = ROOT / "playbooks/pack.sh"
FILES = {
    "manage.py": "#!/usr/bin/env python\n",
    "requirements.txt": "django\n",
    "app/views.py": "x = 1\n",
    "app/static/a file with spaces.css": "a {}\n",
    "app/static/ñandú.css": "b {}\n",
    "-rf": "a name that looks like an option\n",
    "two\nlines": "a name with a line break\n",
}
LEFT_OUT = {"app/__pycache__/views.cpython-313.pyc": "bytecode"}
IGNORED = {"state/results.txt": "results\n", "app/local.log": "log\n"}


@pytest.fixture(autouse=True)
def git_of_nobody(monkeypatch):
    """No git configuration of whoever runs the tests, and no repository around a temporary directory."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)


def source(directory, files, git=False):
    """A directory with these files; `manage.py` is executable."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (directory / "manage.py").chmod(0o755)
    if git:
        subprocess.run(["git", "init", "--quiet", directory], check=True)
    return directory


def pack(directory, cache):
    """The archive of a directory."""
    result = subprocess.run([PACK, directory, cache], capture_output=True, text=True, check=True)
    archive = cache / result.stdout.strip().rpartition("/")[2]
    assert result.stdout == f"{archive}\n"
    assert archive.is_file()
    assert not list(cache.glob(".pack.*")), "its work is left behind"
    return archive


def content(archive):
    """The files in an archive, with their content."""
    with tarfile.open(archive) as tar:
        return {one.name: tar.extractfile(one).read().decode() for one in tar.getmembers()}


@pytest.mark.parametrize("git", [True, False], ids=["git", "plain"])
def test_every_file_is_in_it_and_nothing_else(tmp_path, git):
    made = source(tmp_path / "source", FILES | LEFT_OUT | ({".gitignore": "__pycache__/\n"} if git else {}), git)
    archive = pack(made, tmp_path / "cache")
    assert content(archive) == FILES | ({".gitignore": "__pycache__/\n"} if git else {})
    with tarfile.open(archive) as tar:
        assert {(one.uid, one.gid, one.mtime) for one in tar.getmembers()} == {(0, 0, 0)}
        assert {one.mode for one in tar.getmembers() if one.name != "manage.py"} == {0o644}
        assert tar.getmember("manage.py").mode == 0o755


def test_what_git_ignores_is_left_out(tmp_path):
    ignore = {".gitignore": "state/\n*.log\n"}
    made = source(tmp_path / "source", FILES | ignore | IGNORED, git=True)
    assert content(pack(made, tmp_path / "cache")) == FILES | ignore


def test_a_project_in_a_folder_of_a_repository(tmp_path):
    """As app/ is in this one: the repository's own .gitignore holds, and names begin at the project."""
    (tmp_path / "repository").mkdir()
    subprocess.run(["git", "init", "--quiet", tmp_path / "repository"], check=True)
    (tmp_path / "repository/.gitignore").write_text("state/\n*.log\n")
    made = source(tmp_path / "repository/app/x", FILES | IGNORED)
    assert content(pack(made, tmp_path / "cache")) == FILES


def test_a_file_that_was_deleted_is_left_out(tmp_path):
    made = source(tmp_path / "source", FILES, git=True)
    subprocess.run(["git", "-C", made, "add", "--all"], check=True)
    (made / "requirements.txt").unlink()
    assert "requirements.txt" not in content(pack(made, tmp_path / "cache"))


def test_times_owners_modes_and_git_do_not_count(tmp_path):
    one = source(tmp_path / "one", FILES, git=True)
    two = source(tmp_path / "two", dict(reversed(FILES.items())))
    for path in two.rglob("*"):
        os.utime(path, (1, 1))
        # Another umask: what the group and others may do.
        path.chmod(path.stat().st_mode & 0o700 | (0o060 if path.is_file() else 0o020))
        if os.getuid() == 0:
            shutil.chown(path, 12345, 12345)
    assert pack(one, tmp_path / "cache").name == pack(two, tmp_path / "other").name


CHANGES = {
    "a byte": lambda made: (made / "app/views.py").write_text("x = 2\n"),
    "the executable bit": lambda made: (made / "app/views.py").chmod(0o755),
    "a name": lambda made: (made / "app/views.py").rename(made / "app/other.py"),
    "a file more": lambda made: (made / "app/empty.py").touch(),
    "a file less": lambda made: (made / "app/views.py").unlink(),
}


@pytest.mark.parametrize("git", [True, False], ids=["git", "plain"])
@pytest.mark.parametrize("change", CHANGES)
def test_content_counts(tmp_path, change, git):
    made = source(tmp_path / "source", FILES, git)
    before = pack(made, tmp_path / "cache")
    assert pack(made, tmp_path / "cache") == before
    CHANGES[change](made)
    assert pack(made, tmp_path / "cache") != before


def test_a_source_that_is_not_there(tmp_path):
    result = subprocess.run([PACK, tmp_path / "none", tmp_path / "cache"], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert not result.stdout
    assert not list((tmp_path / "cache").iterdir())


def test_a_source_that_git_ignores_is_no_empty_release(tmp_path):
    made = source(tmp_path / "source", FILES | {".gitignore": "*\n"}, git=True)
    result = subprocess.run([PACK, made, tmp_path / "cache"], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "git ignores it" in result.stderr
    assert not list((tmp_path / "cache").iterdir())
