"""pack.py: a release is named by its content: equal content has one name on any machine, other content another."""

import hashlib
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.topology import ROOT

PACK = ROOT / "roles/django_project/files/pack.py"
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


def run(cache, root_dir="/", **entry):
    """Pack a project with these keys into this directory, in this process: gives what would be the finished one."""
    spec = {"name": cache.name, "root_dir": str(root_dir), **entry}
    argv = ["pack.py", str(cache.parent), json.dumps(spec, default=str)]
    says, status, mask = io.StringIO(), "", os.umask(0o022)
    try:
        with patch.object(sys, "argv", argv), redirect_stdout(says):
            runpy.run_path(str(PACK), run_name="__main__")
    except SystemExit as exc:
        status = exc.code
    finally:
        os.umask(mask)
    return subprocess.CompletedProcess(argv, bool(status), says.getvalue(), f"{status}\n" if status else "")


def packed(result, cache):
    """The archive that was made."""
    assert result.returncode == 0, result.stderr
    [(name, path)] = json.loads(result.stdout).items()
    archive = Path(path)
    assert (name, archive.parent) == (cache.name, cache)
    assert archive.is_file()
    assert not list(cache.glob(".pack.*")), "its work is left behind"
    return archive


def pack(directory, cache, **entry):
    """The archive of a directory."""
    return packed(run(cache, source={"path": directory}, **entry), cache)


def refused(result, cache, *says):
    """It ends with one sentence that says this, and leaves no archive."""
    assert result.returncode == 1
    assert not result.stdout
    [line] = result.stderr.splitlines()
    assert line.startswith(f"quintet: {cache.name}: ")
    assert line.endswith(".")
    assert not [one for one in says if one not in line], line
    assert not list(cache.glob("*.tar"))
    assert not list(cache.glob(".pack.*"))


def content(archive):
    """The files in an archive, with their content."""
    with tarfile.open(archive) as tar:
        return {one.name: one.linkname or tar.extractfile(one).read().decode() for one in tar.getmembers()}


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
    (made / "app/views.py").unlink()
    assert "app/views.py" not in content(pack(made, tmp_path / "cache"))


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
    "a file less": lambda made: (made / "-rf").unlink(),
}


@pytest.mark.parametrize("git", [True, False], ids=["git", "plain"])
def test_content_counts(tmp_path, git):
    made = source(tmp_path / "source", FILES, git)
    found = {pack(made, tmp_path / "cache")}
    assert {pack(made, tmp_path / "cache")} == found
    for name, change in CHANGES.items():
        change(made)
        now = pack(made, tmp_path / "cache")
        assert now not in found, name
        found.add(now)


def test_a_source_that_is_not_there(tmp_path):
    result = run(tmp_path / "cache", tmp_path, source={"path": "none"})
    refused(result, tmp_path / "cache", "source.path", f"no directory {tmp_path}/none")


def test_a_source_that_git_ignores_is_no_empty_release(tmp_path):
    made = source(tmp_path / "source", FILES | {".gitignore": "*\n"}, git=True)
    refused(run(tmp_path / "cache", source={"path": made}), tmp_path / "cache", "source.path", "git ignores it")


def test_it_is_a_program(tmp_path):
    """All the others run it in the process of the tests."""
    made = source(tmp_path / "source", FILES)
    for path in (made, tmp_path / "none"):
        spec = {"name": "cache", "root_dir": "/", "source": {"path": str(path)}}
        result = subprocess.run([PACK, tmp_path, json.dumps(spec)], capture_output=True, text=True, check=False)
        expected = run(tmp_path / "cache", **spec)
        assert (result.returncode, result.stdout, result.stderr) == (
            expected.returncode,
            expected.stdout,
            expected.stderr,
        )


def test_several_at_once(tmp_path):
    specs = []
    for name in ("one", "two"):
        made = source(tmp_path / name, FILES | {"name": name})
        specs.append(json.dumps({"name": name, "root_dir": "/", "source": {"path": str(made)}}))
    result = subprocess.run([PACK, tmp_path / "cache", *specs], capture_output=True, text=True, check=True)
    archives = json.loads(result.stdout)
    assert {name: content(path)["name"] for name, path in archives.items()} == {"one": "one", "two": "two"}
    assert [Path(path).parent for path in archives.values()] == [tmp_path / "cache/one", tmp_path / "cache/two"]


@pytest.mark.parametrize(
    ("given", "says"), [({}, "it has none"), ({"path": "a", "git": {"version": "1"}}, "it has path and git")]
)
def test_a_source_is_of_one_kind(tmp_path, given, says):
    refused(run(tmp_path / "cache", source=given), tmp_path / "cache", "source: ", says)


# -- What it is named by -----------------------------------------------------------------------------------------------


def test_the_name_of_a_plain_source_is_the_digest_of_its_archive_and_of_what_builds_it(tmp_path):
    made = source(tmp_path / "source", {"manage.py": "", "requirements.txt": "django\n"})
    archive = pack(made, tmp_path / "cache")
    ours = [PACK.parent / name for name in ("quintet_settings.py", "gunicorn.conf.py", "preflight.py", "build.sh")]
    content = b"".join(path.read_bytes() for path in (archive, *ours))
    assert archive.name == f"{hashlib.sha256(content).hexdigest()[:12]}.tar"


ENTRIES = {
    "extra": {"dependencies": {"extra": ["a"]}},
    "another extra": {"dependencies": {"extra": ["b"]}},
    "hashes": {"dependencies": {"require_hashes": True}},
    "a server": {"web": "wsgi"},
    "another server": {"web": "asgi"},
    "another way to build it": {"build": {"state_paths": ["media"]}},
}


def test_what_is_required_counts(tmp_path):
    made = source(tmp_path / "source", FILES)
    names = {pack(made, tmp_path / "cache", **entry).name for entry in [{}, *ENTRIES.values()]}
    assert len(names) == 1 + len(ENTRIES)


@pytest.mark.parametrize("entry", [{"dependencies": {}}, {"dependencies": None, "web": None}])
def test_what_is_not_given_does_not_count(tmp_path, entry):
    made = source(tmp_path / "source", FILES)
    assert pack(made, tmp_path / "cache", **entry) == pack(made, tmp_path / "cache")


def test_the_order_of_keys_does_not_count(tmp_path):
    made = source(tmp_path / "source", FILES)
    one, two = {"extra": ["a"], "require_hashes": False}, {"require_hashes": False, "extra": ["a"]}
    assert pack(made, tmp_path / "cache", dependencies=one) == pack(made, tmp_path / "cache", dependencies=two)


def test_with_hashes_no_server_is_added_and_none_counts(tmp_path):
    made = source(tmp_path / "source", FILES)
    hashes = {"dependencies": {"require_hashes": True}}
    assert pack(made, tmp_path / "cache", **hashes, web="wsgi") == pack(made, tmp_path / "cache", **hashes)


# -- What it must have -------------------------------------------------------------------------------------------------


def test_a_root_is_kept_inside(tmp_path):
    made = source(tmp_path / "source", {"manage.py": "", "back/end/requirements.txt": "", "back/end/x.py": ""})
    archive = packed(run(tmp_path / "cache", source={"path": made, "root": "back/end/"}), tmp_path / "cache")
    assert set(content(archive)) == {"manage.py", "back/end/requirements.txt", "back/end/x.py"}


@pytest.mark.parametrize("root", ["end", "back/en", "../source", "/back", "manage.py"])
def test_a_root_that_is_not_there(tmp_path, root):
    made = source(tmp_path / "source", {"manage.py": "", "back/end/requirements.txt": "", "front/x": ""})
    result = run(tmp_path / "cache", source={"path": made, "root": root})
    refused(result, tmp_path / "cache", "source.root", "It has: back, front")


PROJECT = """[project]\nname = "x"\n"""
REQUIRED = {
    "nothing": ({"x.py": ""}, {}, ["pylock.toml, requirements.txt or pyproject.toml"]),
    "not what was named": (
        {"requirements.txt": ""},
        {"requirements": ["a.txt", "requirements.txt"]},
        ["has no a.txt in"],
    ),
    "outside of it": ({"requirements.txt": ""}, {"requirements": ["../x.txt"]}, ["has no ../x.txt"]),
    "in another directory": ({"back/requirements.txt": ""}, {}, ["requirements.txt or pyproject.toml"]),
    "poetry": ({"pyproject.toml": "[tool.poetry.dependencies]\n"}, {}, ["pyproject.toml", "[project]", "Export"]),
    "dynamic": ({"pyproject.toml": PROJECT + 'dynamic = ["dependencies"]\n'}, {}, ["[project]", "Export"]),
    "no TOML": ({"pyproject.toml": "[project"}, {}, ["pyproject.toml is no TOML"]),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_a_source_that_does_not_say_what_it_requires(tmp_path, name):
    files, dependencies, says = REQUIRED[name]
    made = source(tmp_path / "source", {"manage.py": "", **files})
    result = run(tmp_path / "cache", source={"path": made}, dependencies=dependencies)
    refused(result, tmp_path / "cache", "dependencies.requirements", *says)


SAYS = {
    "pyproject": ({"pyproject.toml": PROJECT + 'dynamic = ["version"]\n'}, {}, "."),
    "requirements before pyproject": ({"requirements.txt": "", "pyproject.toml": ""}, {}, "."),
    "only extra": ({"x.py": ""}, {"extra": ["django"]}, "."),
    "beside the root": ({"requirements.txt": "", "src/x.py": ""}, {"requirements": ["../requirements.txt"]}, "src"),
    "none, and that was said": ({"x.py": ""}, {"requirements": []}, "."),
}


@pytest.mark.parametrize("name", SAYS)
def test_a_source_that_says_what_it_requires(tmp_path, name):
    files, dependencies, root = SAYS[name]
    made = source(tmp_path / "source", {"manage.py": "", **files})
    packed(run(tmp_path / "cache", source={"path": made, "root": root}, dependencies=dependencies), tmp_path / "cache")


# -- git ---------------------------------------------------------------------------------------------------------------


def git(directory, *arguments):
    """What git prints, as somebody who commits."""
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "init.defaultBranch=main"]
    return subprocess.check_output(
        ["git", "-C", directory, *who, *arguments], text=True, stderr=subprocess.STDOUT
    ).strip()


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit on main, and a tag for it."""
    path = source(tmp_path / "repository", FILES)
    git(path, "init", "--quiet")
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message=one")
    git(path, "tag", "v1")
    return path


def commit(repository, **files):
    """Another commit, with these files; gives its id."""
    for name, text in files.items():
        (repository / name).write_text(text)
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=more")
    return git(repository, "rev-parse", "HEAD")


def pack_git(tmp_path, version, repository="repository", **more):
    return run(tmp_path / "cache", tmp_path, source={"git": {"repository": repository, "version": version}, **more})


def test_a_repository_gives_what_a_directory_gives(tmp_path, repository):
    archive = packed(pack_git(tmp_path, "v1"), tmp_path / "cache")
    assert content(archive) == FILES
    assert archive == pack(repository, tmp_path / "cache"), "equal content, another name"


def test_links_of_a_repository_are_kept(tmp_path, repository):
    (repository / "link").symlink_to("app")
    git(repository, "add", "--all")
    archive = packed(pack_git(tmp_path, commit(repository, more="")), tmp_path / "cache")
    assert content(archive)["link"] == "app"


def test_a_branch_that_moved_is_fetched(tmp_path, repository):
    before = packed(pack_git(tmp_path, "main"), tmp_path / "cache")
    moved = commit(repository, more="text")
    after = packed(pack_git(tmp_path, "main"), tmp_path / "cache")
    assert content(after) == FILES | {"more": "text"}
    git(repository, "reset", "--quiet", "--hard", "v1")
    assert packed(pack_git(tmp_path, "main"), tmp_path / "cache") == before, "not after it was moved back"
    assert packed(pack_git(tmp_path, moved), tmp_path / "cache") == after


def test_a_tag_is_taken_before_a_branch_of_its_name(tmp_path, repository):
    git(repository, "branch", "v2")
    commit(repository, more="")
    git(repository, "tag", "v2")
    assert "more" in content(packed(pack_git(tmp_path, "v2"), tmp_path / "cache"))


def test_a_commit_that_is_there_is_not_fetched_again(tmp_path, repository):
    one = git(repository, "rev-parse", "HEAD")
    made = packed(pack_git(tmp_path, one), tmp_path / "cache")
    (repository / ".git").rename(repository / ".away")
    assert packed(pack_git(tmp_path, one), tmp_path / "cache") == made
    assert pack_git(tmp_path, "main").returncode == 1


def test_a_hook_may_deploy(tmp_path, repository, monkeypatch):
    """git tells its hooks which repository they are about."""
    git(repository, "init", "--quiet", tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    assert content(packed(pack_git(tmp_path, "v1"), tmp_path / "cache")) == FILES
    assert content(pack(repository, tmp_path / "cache")) == FILES


def test_a_version_that_nobody_pushed(tmp_path, repository):
    result = pack_git(tmp_path, "v9")
    refused(result, tmp_path / "cache", "source.git.version", "has no v9", "not a valid object name: v9")


def test_a_repository_that_is_not_there(tmp_path):
    result = pack_git(tmp_path, "v1", f"file://user:geheim@{tmp_path}/none")
    refused(result, tmp_path / "cache", "source.git.repository", "does not", "git ls-remote")
    assert "geheim" not in result.stderr


@pytest.mark.parametrize("given", [{"repository": "--upload-pack=x", "version": "v1"}, {"repository": "repository"}])
def test_a_repository_and_a_version_must_be_given(tmp_path, given):
    refused(run(tmp_path / "cache", tmp_path, source={"git": given}), tmp_path / "cache", "source.git.", "Give a ")


def test_submodules_are_refused(tmp_path, repository):
    version = commit(repository, **{".gitmodules": "[submodule]\n"})
    refused(pack_git(tmp_path, version), tmp_path / "cache", "source.git", "submodules", "source.path")


# -- Archives ----------------------------------------------------------------------------------------------------------


def tar(path, members, kind="w"):
    """An archive with members as (name, content), or (name, TarInfo attributes)."""
    with tarfile.open(path, kind) as archive:
        for name, what in members:
            member = tarfile.TarInfo(name)
            if isinstance(what, dict):
                for key, value in what.items():
                    setattr(member, key, value)
                archive.addfile(member)
            else:
                member.size = len(what.encode())
                member.mode = 0o775 if name.endswith("manage.py") else 0o664
                archive.addfile(member, io.BytesIO(what.encode()))
    return path


def pack_archive(tmp_path, name):
    return run(tmp_path / "cache", tmp_path, source={"archive": name})


@pytest.mark.parametrize(
    ("kind", "top"),
    [("gz", ""), ("gz", "./x-1.0/"), ("zip", ""), *((kind, "x-1.0/") for kind in ("", "gz", "bz2", "xz", "zip"))],
)
def test_an_archive_gives_what_a_directory_gives(tmp_path, kind, top):
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "a", "w") as archive:
            for name, text in FILES.items():
                member = zipfile.ZipInfo(top + name)
                member.external_attr = (0o100755 if name == "manage.py" else 0o100644) << 16
                archive.writestr(member, text)
    else:
        tar(tmp_path / "a", [(top + name, text) for name, text in FILES.items()], f"w:{kind}")
    archive = packed(pack_archive(tmp_path, "a"), tmp_path / "cache")
    assert content(archive) == FILES
    assert archive == pack(source(tmp_path / "source", FILES), tmp_path / "cache"), "equal content, another name"


def test_links_inside_an_archive_are_kept(tmp_path):
    link = {"type": tarfile.SYMTYPE, "linkname": "../requirements.txt"}
    hard = {"type": tarfile.LNKTYPE, "linkname": "x/requirements.txt"}
    members = [("x/a/link", link), ("x/requirements.txt", "django\n"), ("x/hard", hard)]
    archive = packed(pack_archive(tmp_path, tar(tmp_path / "a", members)), tmp_path / "cache")
    assert content(archive) == {"a/link": "../requirements.txt", "requirements.txt": "django\n", "hard": "django\n"}


def link(to):
    return {"type": tarfile.SYMTYPE, "linkname": str(to)}


MALICIOUS = {
    "a name above": [("../evil", "")],
    "a name above, further down": [("x/../../evil", "")],
    "an absolute name": [("/tmp/evil", "")],
    "a link to an absolute path": [("link", link("/etc/passwd"))],
    "a link above": [("x/link", link("../../../evil"))],
    "a link through a link": [("a/up", link("..")), ("out", link("a/up/..")), ("requirements.txt", "")],
    "a file through a link": [("link", link("{}")), ("link/evil", "text")],
    "a hard link to a file outside": [("evil", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"})],
    "a device": [("evil", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})],
    "a pipe": [("evil", {"type": tarfile.FIFOTYPE})],
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_a_malicious_archive(tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    members = [
        (path, link(outside) if what == link("{}") else what)
        for path, what in [("requirements.txt", ""), *MALICIOUS[name]]
    ]
    refused(pack_archive(tmp_path, tar(tmp_path / "a", members)), tmp_path / "cache", "source.archive", f"{tmp_path}/a")
    assert not list(outside.iterdir())
    assert not list(tmp_path.rglob("evil"))


def test_a_malicious_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a", "w") as archive:
        archive.writestr("../evil", "")
    refused(pack_archive(tmp_path, "a"), tmp_path / "cache", "source.archive", "../evil is outside of it")
    assert not list(tmp_path.rglob("evil"))


BROKEN = {
    "text": (b"text", "neither tar"),
    "nothing": (b"", "neither tar"),
    "half a gzip": (b"\x1f\x8b\x08\x00", "Make it again"),
    "half a zip": (b"PK\x03\x04", "nor zip"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_archive(tmp_path, name):
    (tmp_path / "a").write_bytes(BROKEN[name][0])
    refused(pack_archive(tmp_path, "a"), tmp_path / "cache", "source.archive", BROKEN[name][1])


def test_an_archive_that_was_cut_off(tmp_path):
    tar(tmp_path / "a", [("requirements.txt", os.urandom(9999).hex())], "w:gz")
    os.truncate(tmp_path / "a", 5000)
    refused(pack_archive(tmp_path, "a"), tmp_path / "cache", "source.archive", "Make it again")


def test_an_archive_that_is_not_there(tmp_path):
    refused(pack_archive(tmp_path, "a.zip"), tmp_path / "cache", "source.archive", f"no file {tmp_path}/a.zip")


# -- Packages ----------------------------------------------------------------------------------------------------------


def test_a_package_is_nothing_but_a_requirement(tmp_path):
    package = {"name": "Shop_x", "version": "1.4.post1", "extras": ["postgres", "s3"]}
    archive = packed(run(tmp_path / "cache", source={"package": package}), tmp_path / "cache")
    assert content(archive) == {"requirements.txt": "Shop_x[postgres,s3]==1.4.post1\n"}


@pytest.mark.parametrize(
    ("key", "package"),
    [
        ("name", {"version": "1"}),
        ("name", {"name": "x\n--index-url=y", "version": "1"}),
        ("version", {"name": "x"}),
        ("version", {"name": "x", "version": 1.4}),
        ("version", {"name": "x", "version": "1 --hash"}),
        ("extras", {"name": "x", "version": "1", "extras": ["a]"]}),
    ],
)
def test_a_package_is_named(tmp_path, key, package):
    result = run(tmp_path / "cache", source={"package": package})
    assert result.returncode == 1
    assert f"source.package.{key}" in result.stderr
    assert "Traceback" not in result.stderr
