#!/usr/bin/env python3
"""bundle.py [--requirements] UV ARCHIVE PYTHON MACHINE JSON: put beside a packed source what it requires.

It is fetched as it is for hosts with this PYTHON (3.13) and this MACHINE (x86_64), into one archive with `source/`,
`packages/`, `quintet/` and `sbom.json`, and the path of the archive is printed. Runs on the controller, once for all
hosts of a kind, so that hosts need no index and no compiler, and each runs the same bytes. JSON is what pack.py has
read.

With --requirements it prints the path of a list instead: all that is required, resolved for such hosts. wheels.sh
makes wheels of that list on a host. Its output is then what a bundle is made from, and no index is asked: for ARCHIVE
a.tar it is the file a-PYTHON-MACHINE.wheels.tar, or the wheels in a directory a-PYTHON-MACHINE.wheels.

What is wrong is one sentence on stderr, with uv's own words, the key and the remedy, and the status 1.
"""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

from pack import LAID, REQUIREMENTS, without_secrets
from sbom import sbom

KEPT = 5
# What serves a project, where it does not require it itself: of these, any version that it allows.
SERVERS = {"wsgi": ["gunicorn>=23"], "asgi": ["gunicorn>=23", "uvicorn-worker>=0.3"]}
# What uv says where only a source distribution is there.
NO_WHEEL = re.compile(r"usable wheels|source distributions is disabled|building from source is disabled|no wheels")


def release_of(path):
    """The release that a file in the cache belongs to."""
    return re.split(r"[-.]", path.name)[0]


def lines_of(pylock):
    """A pylock.toml (PEP 751) as lines of a requirements file, so that others can stand beside it."""
    for package in tomllib.loads(pylock.read_text()).get("packages", []):
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        line = package["name"]
        if vcs := package.get("vcs"):
            line += f" @ {vcs['type']}+{vcs['url']}@{vcs['commit-id']}"
        elif archive := package.get("archive"):
            line += f" @ {archive['url']}"
            files = [archive]
        elif directory := package.get("directory"):
            line = f"./{directory['path']}"
        else:
            line += f"=={package['version']}"
        if marker := package.get("marker"):
            line += f" ; {marker}"
        hashes = {f"{kind}:{value}" for file in files for kind, value in file.get("hashes", {}).items()}
        yield " ".join([line, *(f"--hash={one}" for one in sorted(hashes))])


def asked_for(spec, project, work):
    """uv's options that say what is required by a project, which is a directory; its own files are written to work."""
    dependencies = spec.get("dependencies") or {}
    files = dependencies.get("requirements")
    if files is None:
        files = [name for name in REQUIREMENTS if (project / name).is_file()][:1]
    options = []
    for number, name in enumerate(files):
        path = project / name
        if re.fullmatch(r"pylock(\..+)?\.toml", path.name):
            path = work / f"pylock{number}.txt"
            path.write_text("".join(f"{line}\n" for line in lines_of(project / name)))
        options += ["--requirement", path]
    more = list(dependencies.get("extra") or [])
    if not dependencies.get("require_hashes"):
        more += SERVERS.get(spec.get("web"), [])
    for option, name, lines in (
        ("--requirement", "extra.txt", more),
        ("--overrides", "overrides.txt", dependencies.get("overrides")),
    ):
        if lines:
            (work / name).write_text("".join(f"{line}\n" for line in lines))
            options += [option, work / name]
    return options


def uv(spec, project, *arguments):
    """Run uv in a project's directory, as its own files expect it; without success, end with what it says."""
    dependencies = spec.get("dependencies") or {}
    environment = dict(os.environ)
    if index := dependencies.get("index_url"):
        # Not an argument, which everybody on this machine could read.
        environment["UV_DEFAULT_INDEX"] = index
        environment.pop("UV_INDEX_URL", None)
    done = subprocess.run(
        [*arguments, "--quiet", "--system-certs", "--python", sys.executable],
        cwd=project,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        says = without_secrets(done.stderr or done.stdout).strip()
        for path in sorted({str(project), str(project.parent)}, key=len, reverse=True):
            says = says.replace(f"{path}/", "")
        remedy = "See dependencies of the project."
        if NO_WHEEL.search(says) and dependencies.get("build_packages") is None:
            remedy = f"Set dependencies.build_packages of {spec['name']} to build it on a host."
        sys.exit(f"quintet: {spec['name']}: what it requires cannot be fetched:\n{says}\n{remedy}")
    return done.stdout


def compile_list(uv_path, kind, spec, project, work):
    """All that is required, as lines of a requirements file, pinned, with hashes where each can have one."""
    command = [uv_path, "pip", "compile", *kind, *asked_for(spec, project, work), "--no-header", "--no-annotate"]
    # Other than `install`, it takes its files without an option.
    command = [word for word in command if word != "--requirement"]
    lines = uv(spec, project, *command, "--generate-hashes")
    if re.search(r"^[^#\s]+ @ |^\.", lines, re.MULTILINE):
        # pip takes hashes for all or for none, and a repository or a directory has none.
        lines = uv(spec, project, *command)
    return lines


def unpack_wheels(wheels, work):
    """The wheels that a host has made, as paths: those in a directory or an archive, of which nothing else is used."""
    archive = Path(f"{wheels}.tar")
    if not archive.exists():
        return sorted(wheels.glob("*.whl"))
    found = []
    with tarfile.open(archive) as tar:
        for member in tar:
            path = work / "wheels" / os.path.basename(member.name)
            if member.isreg() and path.suffix == ".whl":
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
                found.append(path)
    return sorted(found)


def fetch(uv_path, python, machine, spec, project, work, wheels):
    """Install what is required into work/packages."""
    target = work / "packages"
    target.mkdir()
    command = [uv_path, "pip", "install", "--target", target, "--python-version", python, "--only-binary", ":all:"]
    if wheels.exists() or Path(f"{wheels}.tar").exists():
        # The host has resolved nothing: it has made what is on the list, all of it. It may be newer than what wheels
        # for everybody are made for, and so may be what pip has taken there.
        made = unpack_wheels(wheels, work)
        platform = ["--python-platform", f"{machine}-manylinux_2_40"]
        if made:
            uv(spec, project, *command, *platform, "--no-deps", "--no-index", *made)
    else:
        platform = ["--python-platform", f"{machine}-unknown-linux-gnu"]
        hashes = ["--require-hashes"] if (spec.get("dependencies") or {}).get("require_hashes") else []
        options = asked_for(spec, project, work)
        if options:
            uv(spec, project, *command, *platform, *hashes, *options)
    forget_this_machine(target)


def forget_this_machine(target):
    """Remove from what is installed, and from its RECORDs, what uv wrote for this machine, and differs in each run."""
    # Its commands would start the controller's Python.
    shutil.rmtree(target / "bin", ignore_errors=True)
    (target / ".lock").unlink(missing_ok=True)
    for info in target.glob("*.dist-info"):
        notes = [info / "uv_cache.json"]
        origin = info / "direct_url.json"
        if origin.exists() and json.loads(origin.read_text())["url"].startswith("file:"):
            notes.append(origin)
        for path in notes:
            path.unlink(missing_ok=True)
        gone = ("bin/", *(f"{info.name}/{path.name}," for path in notes))
        record = info / "RECORD"
        lines = record.read_text(encoding="utf-8").splitlines(keepends=True)
        record.write_text("".join(line for line in lines if not line.startswith(gone)), encoding="utf-8")


def write_bundle(work, bundle):
    """Make the archive, whole or not at all."""
    (work / "quintet").mkdir()
    for name in LAID:
        shutil.copy(Path(__file__).parent / name, work / "quintet")
    mode = [
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mode=a+rX,go-w",
        "--mtime=@0",
        "--use-compress-program=gzip --fast",
    ]
    made = work / "bundle"
    command = ["tar", "--create", f"--directory={work}", f"--file={made}", *mode]
    subprocess.run([*command, "source", "packages", "quintet", "sbom.json"], check=True)
    os.replace(made, bundle)
    # What belongs to the last few releases is kept; what is missed is made again.
    newest = sorted(bundle.parent.glob("[!.]*.*"), key=lambda path: path.stat().st_mtime, reverse=True)
    releases = list(dict.fromkeys(release_of(path) for path in newest))
    for path in newest:
        if path.is_file() and release_of(path) in releases[KEPT:]:
            path.unlink(missing_ok=True)


def main():
    """Print the path of what was asked for, which is made unless it is there."""
    arguments = sys.argv[1:]
    only_list = arguments[0] == "--requirements"
    uv_path, archive, python, machine, spec = arguments[only_list:]
    uv_path, archive, spec = Path(uv_path).absolute(), Path(archive).absolute(), json.loads(spec)
    # A host says these two about itself, and they become part of a path here.
    if not re.fullmatch(r"3\.[0-9]+", python) or not re.fullmatch(r"[a-z0-9_]+", machine):
        sys.exit(
            f'quintet: a host says that it has Python "{python}" on a machine "{machine}". Is Python 3 installed there?'
        )
    base = f"{archive.with_suffix('')}-{python}-{machine}"
    made = Path(f"{base}.requirements.txt" if only_list else f"{base}.tar.gz")
    os.umask(0o077)
    with open(f"{archive}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # hosts build side by side
        if not made.exists():
            with tempfile.TemporaryDirectory(prefix=".bundle.", dir=archive.parent) as name:
                work = Path(name)
                (work / "source").mkdir()
                subprocess.run(["tar", "--extract", "--file", archive, "--directory", work / "source"], check=True)
                project = work / "source" / ((spec.get("source") or {}).get("root") or ".")
                if only_list:
                    kind = ["--python-version", python, "--python-platform", f"{machine}-unknown-linux-gnu"]
                    (work / "list").write_text(compile_list(uv_path, kind, spec, project, work))
                    os.replace(work / "list", made)
                else:
                    fetch(uv_path, python, machine, spec, project, work, Path(f"{base}.wheels"))
                    (work / "sbom.json").write_text(sbom(spec["name"], archive.stem, work / "packages"))
                    write_bundle(work, made)
    print(made)


if __name__ == "__main__":
    main()
