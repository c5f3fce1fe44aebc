"""A bundle: a packed source with what it requires, for hosts of one kind."""

import base64
import hashlib
import io
import json
import os
import runpy
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from tests.topology import ROOT

UV = Path(sys.executable).parent / "uv"
FILES = ROOT / "roles/django_project/files"


def wheel(directory, name, tag="py3-none-any", version="1.0", requires=(), extras=(), metadata=()):
    """A wheel with one module and one command; gives its hash, for a requirement."""
    info = f"{name}-{version}.dist-info"
    more = [f"Requires-Dist: {one}" for one in requires] + [f"Provides-Extra: {one}" for one in extras] + [*metadata]
    files = {
        f"{name}.py": f"KIND = {tag!r}\n",
        f"{info}/METADATA": "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *more, ""]),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {name}:main\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = directory / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(file, text)
    return f" --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def bundle(tmp_path, tmp_path_factory):
    """Bundle a source with these requirements, and dependencies as in a project's entry: gives the finished process."""
    (tmp_path / "wheels").mkdir()
    source = tmp_path / "source"
    source.mkdir()
    (source / "manage.py").write_text("print()\n")
    (tmp_path / "no-index").mkdir()
    offline = {
        "UV_DEFAULT_INDEX": (tmp_path / "no-index").as_uri(),
        "UV_FIND_LINKS": str(tmp_path / "wheels"),
        "UV_CACHE_DIR": str(tmp_path_factory.getbasetemp() / "uv"),
    }

    def run(requirements, python="3.13", machine="x86_64", *, option=(), files=None, root=".", env=offline, **entry):
        for name, text in {"requirements.txt": requirements, **(files or {})}.items():
            if text is not None:
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                (source / name).write_text(text)
        archive = tmp_path / "cache" / "0123456789ab.tar"
        archive.parent.mkdir(exist_ok=True)
        with tarfile.open(archive, "w") as tar:
            for path in source.iterdir():
                tar.add(path, path.name)
        entry = {"name": "x", "source": {"path": "x", "root": root}, **entry}
        return subprocess.run(
            [sys.executable, FILES / "bundle.py", *option, UV, archive, python, machine, json.dumps(entry)],
            env=os.environ | env,
            capture_output=True,
            text=True,
        )

    return run


def packages(result):
    """The packages in a bundle, each as name==version."""
    assert result.returncode == 0, result.stderr
    with tarfile.open(result.stdout.strip()) as tar:
        infos = {Path(name).parts[1] for name in tar.getnames() if ".dist-info/" in name}
    return {info.removesuffix(".dist-info").replace("-", "==") for info in infos}


HASHES = {"require_hashes": True}


def test_a_bundle_is_for_the_kind_of_its_hosts(bundle, tmp_path):
    hashes = "".join(
        wheel(tmp_path / "wheels", "thing", tag)
        for tag in ("cp313-cp313-manylinux_2_17_x86_64", "cp313-cp313-manylinux_2_17_aarch64")
    )
    for machine in ("x86_64", "aarch64"):
        result = bundle(f"thing==1.0{hashes}\n", machine=machine, dependencies=HASHES)
        assert result.returncode == 0, result.stderr
        path = Path(result.stdout.strip())
        assert path.name == f"0123456789ab-3.13-{machine}.tar.gz"
        with tarfile.open(path) as tar:
            names = set(tar.getnames())
            assert {"source/manage.py", "source/requirements.txt", "packages/thing.py"} <= names
            assert {f"quintet/{name}" for name in ("quintet_settings.py", "gunicorn.conf.py", "preflight.py")} <= names
            assert not any(name.startswith("packages/bin") for name in names), "commands of the controller's Python"
            assert machine in tar.extractfile("packages/thing.py").read().decode()
            assert {(member.uid, member.gid) for member in tar} == {(0, 0)}
            assert {member.mode for member in tar if member.isfile()} == {0o644}
            assert {member.mode for member in tar if member.isdir()} == {0o755}


def test_a_bundle_is_made_once(bundle, tmp_path):
    hashes = wheel(tmp_path / "wheels", "thing", "py3-none-any")
    path = Path(bundle(f"thing==1.0{hashes}\n").stdout.strip())
    made = path.stat().st_mtime_ns
    assert Path(bundle(f"thing==1.0{hashes}\n").stdout.strip()) == path
    assert path.stat().st_mtime_ns == made


@pytest.mark.parametrize("hashes", [" --hash=sha256:" + "0" * 64, ""])
def test_what_is_not_pinned_or_has_another_hash_is_refused(bundle, tmp_path, hashes):
    wheel(tmp_path / "wheels", "thing", "py3-none-any")
    result = bundle(f"thing==1.0{hashes}\n", dependencies=HASHES)
    assert result.returncode == 1
    assert "hash" in result.stderr.lower()
    assert [path.suffix for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == [".tar"]


def test_the_last_few_bundles_are_kept(bundle, tmp_path):
    hashes = wheel(tmp_path / "wheels", "thing", "py3-none-any")
    cache = tmp_path / "cache"
    (cache / "git").mkdir(parents=True)
    for age in range(1, 7):
        for name in (
            ".tar",
            ".tar.lock",
            "-3.11-x86_64.tar.gz",
            "-3.11-x86_64.wheels.tar",
            "-3.11-x86_64.requirements.txt",
        ):
            (cache / f"{age:012}{name}").touch()
            os.utime(cache / f"{age:012}{name}", (10 - age, 10 - age))
    for minor in (12, 13):
        assert bundle(f"thing==1.0{hashes}\n", python=f"3.{minor}").returncode == 0
    kept = {path.name for path in cache.iterdir()}
    assert {name[:12] for name in kept} == {"git", "0123456789ab", *(f"{age:012}" for age in range(1, 5))}
    assert {name for name in kept if name.startswith("0123456789ab") and name.endswith("gz")} == {
        "0123456789ab-3.12-x86_64.tar.gz",
        "0123456789ab-3.13-x86_64.tar.gz",
    }
    assert len(kept) == 1 + 4 * 5 + 4


@pytest.mark.parametrize(
    ("python", "machine"), [("3.13/../../x", "x86_64"), ("3.13", "../x"), ("", "x86_64"), ("3.13", "$(id)")]
)
def test_what_a_host_says_about_itself_becomes_no_path(bundle, tmp_path, python, machine):
    result = bundle("", python=python, machine=machine)
    assert result.returncode == 1
    assert "a host says" in result.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["0123456789ab.tar"]


# -- What is required --------------------------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, bundle):
    """Wheels of a few packages."""
    made = tmp_path / "wheels"
    for version in ("1.0", "2.0"):
        wheel(made, "thing", version=version)
    wheel(made, "other", requires=["thing<2", "speed ; extra == 'fast'"], extras=["fast"])
    wheel(made, "speed")
    for name, version in (("gunicorn", "22.0"), ("gunicorn", "23.5"), ("uvicorn_worker", "0.4")):
        wheel(made, name, version=version)
    return made


PYPROJECT = """[project]
name = "x"
dynamic = ["version"]
dependencies = ["thing>1"]

[build-system]
requires = ["a-build-that-nobody-has"]
"""
LOCK = """lock-version = "1.0"

[[packages]]
name = "thing"
version = "1.0"
marker = "sys_platform == 'linux'"
wheels = [{ name = "x", hashes = { sha256 = "HASH" } }]

[[packages]]
name = "nothing"
version = "1.0"
marker = "sys_platform == 'win32'"
"""
THING = "thing"
CASES = {
    "a requirements file": ({"requirements.txt": "thing<2"}, {}, {"thing==1.0"}),
    "the first of them": ({"requirements.txt": "thing<2", "pyproject.toml": PYPROJECT}, {}, {"thing==1.0"}),
    "a pyproject, not itself": ({"pyproject.toml": PYPROJECT}, {}, {"thing==2.0"}),
    "those that were named": (
        {"requirements.txt": "no-such-thing", "a/b.txt": "-r c.txt", "a/c.txt": "speed", "pyproject.toml": PYPROJECT},
        {"requirements": ["a/b.txt", "pyproject.toml"]},
        {"speed==1.0", "thing==2.0"},
    ),
    "extra": ({"requirements.txt": "thing"}, {"extra": ["speed", "thing<2"]}, {"speed==1.0", "thing==1.0"}),
    "only extra": ({}, {"extra": ["speed"]}, {"speed==1.0"}),
    "nothing": ({"requirements.txt": "thing"}, {"requirements": []}, set()),
    "extras of a package": ({"requirements.txt": "other[fast]"}, {}, {"other==1.0", "speed==1.0", "thing==1.0"}),
    "overrides": ({"requirements.txt": "other"}, {"overrides": ["thing==2.0"]}, {"other==1.0", "thing==2.0"}),
    "a lock": ({"pylock.toml": LOCK, "requirements.txt": "no-such-thing"}, {}, {"thing==1.0"}),
    "a lock and more": ({"pylock.toml": LOCK}, {"extra": ["speed"]}, {"thing==1.0", "speed==1.0"}),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_project_requires(bundle, index, name):
    files, dependencies, expected = CASES[name]
    digest = hashlib.sha256((index / "thing-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    files = {file: text.replace("HASH", digest) for file, text in files.items()}
    assert packages(bundle(None, files=files, dependencies=dependencies)) == expected


def test_requirements_are_in_the_root(bundle, index):
    files = {"back/requirements.txt": "-r ../common.txt\n", "common.txt": "speed"}
    assert packages(bundle("thing", files=files, root="back")) == {"speed==1.0"}


@pytest.mark.parametrize("file", ["requirements.txt", "pylock.toml"])
def test_a_hash_that_is_there_is_verified(bundle, index, file):
    files = {"requirements.txt": f"thing==1.0 --hash=sha256:{'0' * 64}", "pylock.toml": LOCK.replace("HASH", "0" * 64)}
    result = bundle(None, files={file: files[file]})
    assert result.returncode == 1
    assert "Hash mismatch" in result.stderr


def test_the_server_is_added(bundle, index):
    assert packages(bundle("thing", web="wsgi")) == {"thing==2.0", "gunicorn==23.5"}


def test_the_server_of_asgi_is_added(bundle, index):
    assert packages(bundle("thing", web="asgi")) == {"thing==2.0", "gunicorn==23.5", "uvicorn_worker==0.4"}


def test_no_server_is_added_to_what_is_pinned_by_hash(bundle, index, tmp_path):
    requirement = f"speed==1.0{wheel(tmp_path / 'wheels', 'speed')}\n"
    assert packages(bundle(requirement, web="wsgi", dependencies=HASHES)) == {"speed==1.0"}


def simple(directory, *wheels):
    """An index of these wheels, as a directory; gives its URL."""
    for path in wheels:
        page = directory / path.name.split("-")[0] / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="{path.as_uri()}">{path.name}</a>')
    return directory.as_uri()


def test_an_index_stands_for_the_default_one(bundle, tmp_path):
    wheel(tmp_path, "thing")
    url = simple(tmp_path / "simple", tmp_path / "thing-1.0-py3-none-any.whl")
    env = {"UV_NO_CACHE": "1", "UV_INDEX_URL": "http://127.0.0.1:9/", "UV_DEFAULT_INDEX": "http://127.0.0.1:9/"}
    assert packages(bundle("thing", env=env, dependencies={"index_url": url})) == {"thing==1.0"}


@pytest.fixture
def private_index(tmp_path):
    """An index over HTTP for one user: gives its port, and a list of what it was asked for."""
    wheel(tmp_path, "thing")
    file = "thing-1.0-py3-none-any.whl"
    pages = {"/simple/thing/": f'<a href="/{file}">{file}</a>'.encode(), f"/{file}": (tmp_path / file).read_bytes()}
    asked = []

    class Index(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            known = self.headers["Authorization"] == f"Basic {base64.b64encode(b'team:geheim').decode()}"
            page = pages.get(urlsplit(self.path).path)
            self.send_response((200 if page else 404) if known else 401)
            self.send_header("Content-Type", "text/html")
            self.send_header("WWW-Authenticate", "Basic")
            self.send_header("Content-Length", str(len(page or b"") if known else 0))
            self.end_headers()
            if known and page and self.command == "GET":
                self.wfile.write(page)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, asked
        server.shutdown()


@pytest.mark.parametrize(("password", "fits"), [("geheim", True), ("falsch", False)])
def test_the_password_of_an_index_is_in_netrc(bundle, private_index, tmp_path, password, fits):
    port, _ = private_index
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login team password {password}\n")
    env = {"UV_NO_CACHE": "1", "UV_HTTP_RETRIES": "0", "NETRC": str(tmp_path / "netrc")}
    result = bundle("thing", env=env, dependencies={"index_url": f"http://127.0.0.1:{port}/simple/"})
    if fits:
        assert packages(result) == {"thing==1.0"}
    else:
        assert result.returncode == 1
        assert password not in result.stderr


def test_an_index_beyond_a_proxy(bundle, private_index):
    port, asked = private_index
    env = {"UV_NO_CACHE": "1", "UV_HTTP_RETRIES": "0", "http_proxy": f"http://127.0.0.1:{port}", "no_proxy": ""}
    url = "http://team:geheim@index.invalid/simple/"
    assert packages(bundle("thing", env=env, dependencies={"index_url": url})) == {"thing==1.0"}
    assert all(path.startswith("http://index.invalid/") for path in asked)


def test_an_index_that_does_not_answer_is_said_without_its_password(bundle):
    env = {"UV_NO_CACHE": "1", "UV_HTTP_RETRIES": "0"}
    result = bundle("thing", env=env, dependencies={"index_url": "http://user:geheim@127.0.0.1:9/simple"})
    assert result.returncode == 1
    assert "127.0.0.1:9/simple" in result.stderr
    assert "geheim" not in result.stderr + result.stdout
    assert "build_packages" not in result.stderr


# -- What it has (SBOM) ------------------------------------------------------------------------------------------------


def unpacked(result):
    """The files in a bundle."""
    assert result.returncode == 0, result.stderr
    with tarfile.open(result.stdout.strip()) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


def digest(content, encoded=False):
    """A SHA-256 in hexadecimal, or encoded as in a RECORD."""
    found = hashlib.sha256(content)
    return base64.urlsafe_b64encode(found.digest()).decode().rstrip("=") if encoded else found.hexdigest()


def test_the_sbom_lists_what_is_installed(bundle, index):
    wheel(index, "Odd_name", version="1.0+local.1")
    result = bundle("other[fast]\nOdd.Name\n", web="asgi")
    files = unpacked(result)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(files["sbom.json"].decode()) is None
    document = json.loads(files["sbom.json"])
    assert document["metadata"]["component"].items() >= {"name": "x", "version": "0123456789ab"}.items()
    found = {f"{one['name']}=={one['version']}": one for one in document["components"]}
    assert found.keys() == packages(result)
    assert found.keys() >= {"other==1.0", "speed==1.0", "thing==1.0", "gunicorn==23.5", "Odd_name==1.0+local.1"}
    for one in document["components"]:
        assert one["purl"] == str(PackageURL("pypi", None, one["name"], one["version"]))
        [record] = one["components"]
        content = files[f"packages/{record['name']}"]
        assert record["hashes"] == [{"alg": "SHA-256", "content": digest(content)}]
        # That digest stands for the files: there is each of them, as the RECORD has it.
        named = {path: hash for path, hash, _ in (line.split(",") for line in content.decode().splitlines())}
        assert len(named) >= 4
        for path, hash in named.items():
            assert hash in ("", f"sha256={digest(files[f'packages/{path}'], encoded=True)}"), path


LICENSES = {
    "an expression": (
        ["License-Expression: MIT OR Apache-2.0", "Classifier: License :: OSI Approved :: MIT License"],
        [{"expression": "MIT OR Apache-2.0"}],
    ),
    "names": (
        ["License: BSD", "Classifier: License :: OSI Approved :: BSD License", "Classifier: Framework :: Django :: 5"],
        [{"license": {"name": "BSD"}}, {"license": {"name": "BSD License"}}],
    ),
    "one name twice": (["License: BSD", "Classifier: License :: BSD :: BSD"], [{"license": {"name": "BSD"}}]),
    "a whole text": (["License: BSD", "        Redistribution and use"], None),
    "nothing": (["License: UNKNOWN", "Classifier: License :: OSI Approved"], None),
}


@pytest.mark.parametrize("name", LICENSES)
def test_a_license_is_what_the_package_says(bundle, tmp_path, name):
    metadata, expected = LICENSES[name]
    wheel(tmp_path / "wheels", "thing", metadata=metadata)
    text = unpacked(bundle("thing"))["sbom.json"].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert json.loads(text)["components"][0].get("licenses") == expected


@pytest.mark.parametrize("kind", ["an index", "a file", "wheels of a host"])
def test_equal_packages_make_an_equal_bundle_and_sbom(bundle, tmp_path, kind):
    cache, wheels = tmp_path / "cache", tmp_path / "wheels"

    def made(version):
        wheel(wheels, "thing", version=version)
        file = f"thing-{version}-py3-none-any.whl"
        if kind == "wheels of a host":
            cache.mkdir(exist_ok=True)
            with tarfile.open(cache / "0123456789ab-3.13-x86_64.wheels.tar", "w") as tar:
                tar.add(wheels / file, file)
        uri = (wheels / file).as_uri()
        result = bundle(f"thing @ {uri}" if kind == "a file" else f"thing=={version}")
        files = unpacked(result)
        Path(result.stdout.strip()).unlink()
        return files

    first = made("1.0")
    assert made("1.0") == first
    number, other = (json.loads(files["sbom.json"])["serialNumber"] for files in (first, made("2.0")))
    assert number != other


# -- What has no wheel -------------------------------------------------------------------------------------------------

SETUP = """from setuptools import setup
setup(name="thing", version="3.0", py_modules=["thing"])
"""
BUILD = "Set dependencies.build_packages of x to build it on a host."


def sdist(directory, name="thing", version="3.0"):
    """A source distribution whose metadata need no build."""
    metadata = f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n"
    path = directory / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for file, text in {"PKG-INFO": metadata, "setup.py": SETUP, f"{name}.py": "KIND = 'built'\n"}.items():
            member = tarfile.TarInfo(f"{name}-{version}/{file}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


@pytest.mark.parametrize("requirement", ["thing", "thing==3.0", "thing @ {}"])
def test_what_has_no_wheel_can_be_built_on_a_host(bundle, tmp_path, requirement):
    sdist(tmp_path / "wheels")
    result = bundle(requirement.format((tmp_path / "wheels/thing-3.0.tar.gz").as_uri()))
    assert result.returncode == 1
    assert "thing" in result.stderr
    assert result.stderr.endswith(f"\n{BUILD}\n"), result.stderr


def test_what_is_not_there_is_another_matter(bundle):
    result = bundle("no-such-thing")
    assert result.returncode == 1
    assert "no-such-thing" in result.stderr
    assert BUILD not in result.stderr


def test_the_list_for_a_host_is_complete_and_pinned(bundle, index, tmp_path):
    sdist(tmp_path / "wheels")
    result = bundle(
        "thing\n", option=["--requirements"], dependencies={"extra": ["other"], "overrides": ["thing==3.0"]}, web="wsgi"
    )
    assert result.returncode == 0, result.stderr
    path = Path(result.stdout.strip())
    assert path.name == "0123456789ab-3.13-x86_64.requirements.txt"
    lines = path.read_text().splitlines()
    assert {line.split()[0] for line in lines if "==" in line} == {"thing==3.0", "other==1.0", "gunicorn==23.5"}
    assert sum("--hash=sha256:" in line for line in lines) >= 3


@pytest.mark.parametrize("kind", ["directory", "archive"])
def test_wheels_of_a_host_are_all_that_is_asked_for(bundle, tmp_path, kind):
    (tmp_path / "cache").mkdir()
    made = tmp_path / "cache/0123456789ab-3.13-x86_64.wheels"
    made.mkdir()
    # As a host names what it has built, and as pip takes what is for newer systems.
    wheel(made, "thing", "cp313-cp313-linux_x86_64")
    wheel(made, "other", "cp313-cp313-manylinux_2_39_x86_64")
    if kind == "archive":
        with tarfile.open(f"{made}.tar", "w") as tar:
            tar.add(made, ".")
            tar.add("/etc/hostname", "../../evil")
            link = tarfile.TarInfo("link.whl")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        for path in made.iterdir():
            path.unlink()
        made.rmdir()
    result = bundle("thing\nno-such-thing\n", dependencies={"build_packages": []})
    assert packages(result) == {"thing==1.0", "other==1.0"}
    assert not list(tmp_path.rglob("evil"))


def test_wheels_of_another_machine_are_refused(bundle, tmp_path):
    made = tmp_path / "cache/0123456789ab-3.13-x86_64.wheels"
    made.mkdir(parents=True)
    wheel(made, "thing", "cp313-cp313-linux_aarch64")
    result = bundle("thing\n", dependencies={"build_packages": []})
    assert result.returncode == 1
    assert "linux_aarch64" in result.stderr


def test_what_another_program_says_is_told_without_passwords():
    """uv hides those that it knows of; what it runs may not."""
    told = runpy.run_path(str(FILES / "pack.py"))["without_secrets"]("at https://user:geheim@index.example.org/x")
    assert told == "at https://***@index.example.org/x"
