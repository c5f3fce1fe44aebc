#!/usr/bin/env python3
"""pack.py CACHE JSON...: pack the sources of projects into CACHE/<name>/<release>.tar; prints {name: path} as JSON.

Each JSON is an object with `name`, `source` and, where they are given, `dependencies`, as in the project's entry in
`django_projects`, with `web` (wsgi or asgi) where it has one, with `build`: what else decides what a host makes of it,
and with `root_dir`: where relative paths begin.

A release is named by what it is made from: equal names of files, content, executable bits, dependencies, and an equal
Quintet give an equal name on any machine; owners and times do not count.

What is wrong is one sentence on stderr, with the key and the remedy, and the status 1.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
import zlib
from pathlib import Path

KINDS = ("path", "git", "archive", "package")
# What Quintet lays beside a source, and what builds a release of both.
LAID = ("quintet_settings.py", "gunicorn.conf.py", "preflight.py")
BUILDER = "build.sh"
# The first of these that a source has says what it requires, unless its entry names others.
REQUIREMENTS = ("pylock.toml", "requirements.txt", "pyproject.toml")
# Whatever an archive that is broken, encrypted or hostile makes the standard library say.
ARCHIVE_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError),
    *(LookupError, RuntimeError, NotImplementedError),
)
# Set where a hook of git runs this, and about another repository.
OF_A_HOOK = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


class Wrong(Exception):
    """What is wrong with an entry: the key, and a sentence with the remedy."""

    def __init__(self, key, says):
        super().__init__(f"{key}: {says}")


def without_secrets(text):
    """A text, often another program's, without the passwords of its URLs."""
    return re.sub(r"://[^/@\s]*@", "://***@", text)


def in_a_sentence(text):
    """The same in one line."""
    return without_secrets(" ".join(text.split()))


def git(*arguments, directory=None):
    """Run git with the access of whoever runs this, and without a question to them. Gives the finished process."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = ["git", "-c", "safe.directory=*", *(["-C", directory] if directory else []), *arguments]
    if arguments[0] == "fetch":
        ssh = os.environ.get("GIT_SSH_COMMAND") or git("config", "--get", "core.sshCommand").stdout.decode().strip()
        environment["GIT_SSH_COMMAND"] = f"{ssh or 'ssh'} -o BatchMode=yes -o ConnectTimeout=20"
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True)


def git_says(finished):
    """Why git failed, in its own words."""
    return in_a_sentence(finished.stderr.decode(errors="replace")).rstrip(".")


# -- What is in a source -----------------------------------------------------------------------------------------------


def listed(directory):
    """The files below a directory, as bytes: those that git does not ignore, or all where there is no git."""
    if shutil.which("git"):
        found = git("ls-files", "-z", "--cached", "--others", "--exclude-standard", ".", directory=directory)
        if found.returncode == 0:
            names = set(found.stdout.split(b"\0")) - {b""}
            return [name for name in names if os.path.exists(os.path.join(os.fsencode(directory), name))]
    names = [name for name in every(directory, links=False) if b"__pycache__" not in name.split(b"/")[:-1]]
    return [name for name in names if not name.startswith(b".git/")]


def every(directory, links=True):
    """Each file below a directory, as bytes; with links or without."""

    def fail(error):
        raise error

    top = os.fsencode(directory)
    for folder, folders, files in os.walk(top, onerror=fail):
        for path in (os.path.join(folder, name) for name in [*files, *folders]):
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) or (links and stat.S_ISLNK(mode)):
                yield os.path.relpath(path, top)


def from_path(source, root_dir, work, cache):
    """A directory on this machine. Gives it, and the files in it that count."""
    directory = Path(root_dir, source["path"])
    if not directory.is_dir():
        raise Wrong("source.path", f"there is no directory {directory}. Name the one with the project's source.")
    names = listed(directory)
    if not names:
        raise Wrong(
            "source.path",
            f"{directory} has no file to pack, or git ignores it: see 'git -C {directory} check-ignore -v *'.",
        )
    return directory, names


def from_git(source, root_dir, work, cache):
    """A version of a repository, of which a bare clone is kept in the cache."""
    said = source["git"]
    repository, version = str(said.get("repository") or ""), str(said.get("version") or "")
    for key, value in {"repository": repository, "version": version}.items():
        if not value or value.startswith("-"):
            raise Wrong(f"source.git.{key}", f"it is '{value}'. Give a {key}.")
    if not shutil.which("git"):
        raise Wrong("source.git", "there is no git on this machine to clone it with. Install git here.")
    if Path(root_dir, repository).is_dir():
        repository = str(Path(root_dir, repository))
    clone = cache / "git" / hashlib.sha256(repository.encode()).hexdigest()[:12]
    clone.mkdir(parents=True, exist_ok=True)
    with open(f"{clone}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        commit = fetched(clone, repository, version)
    packed = work.parent / "git.tar"
    made = git("archive", "--format=tar", f"--output={packed}", commit, directory=clone)
    if made.returncode or subprocess.run(["tar", "--extract", f"--file={packed}", "--directory", work]).returncode:
        raise Wrong("source.git", f"{version} cannot be unpacked in {cache}: {git_says(made)}. Is the disk full?")
    if (work / ".gitmodules").exists():
        raise Wrong(
            "source.git",
            f"{version} has submodules, which are not supported. Check it out yourself, and name the directory in"
            " source.path.",
        )
    return work, list(every(work))


def fetched(clone, repository, version):
    """The commit that a version is, after a fetch unless the version is a commit that is there already."""

    def commit_of(name):
        found = git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", directory=clone)
        return found.stdout.decode().strip() if found.returncode == 0 else None

    is_commit = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", version)
    git("init", "--quiet", "--bare", clone)
    if is_commit and commit_of(version):
        return version
    heads_and_tags = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
    done = git("fetch", "--quiet", "--prune", "--no-auto-gc", "--", repository, *heads_and_tags, directory=clone)
    if done.returncode:
        raise Wrong(
            "source.git.repository",
            f"git cannot fetch it: {git_says(done)}. It is fetched from here with your own access: try 'git ls-remote"
            f" {without_secrets(repository)}'.",
        )
    names = [f"refs/tags/{version}", f"refs/heads/{version}"]
    if re.fullmatch(r"[0-9a-f]{7,64}", version):
        names.append(version)
    if is_commit and not commit_of(version):
        # One that no branch leads to: some servers give it when they are asked for it.
        git("fetch", "--quiet", "--", repository, version, directory=clone)
    for name in names:
        if commit := commit_of(name):
            return commit
    says = git_says(git("archive", "--format=tar", "--end-of-options", version, directory=clone))
    raise Wrong(
        "source.git.version",
        f"{without_secrets(repository)} has no {version} ({says}). Name a branch, a tag or a commit that was pushed.",
    )


def from_archive(source, root_dir, work, cache):
    """An archive on this machine, as tar or as zip; a single directory at its top is left off."""
    path = Path(root_dir, source["archive"])
    if not path.is_file():
        raise Wrong("source.archive", f"there is no file {path}. Name an archive on this machine.")
    try:
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                unpack([tar_member(archive, member) for member in archive if not member.isdir()], work)
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpack([zip_member(archive, member) for member in archive.infolist() if not member.is_dir()], work)
        else:
            raise ValueError("neither tar (as it is, or with gzip, bzip2 or xz) nor zip")
    except ARCHIVE_ERRORS as exc:
        says = in_a_sentence(str(exc)) or type(exc).__name__
        raise Wrong("source.archive", f"{path} is no archive of a source: {says}. Make it again.") from exc
    names = list(every(work))
    if not names:
        raise Wrong("source.archive", f"{path} has no file in it. Make it again.")
    return work, names


def tar_member(archive, member):
    """Of a member of a tar: its name, its mode, where it leads if it is a link, and how to open it."""
    if not (member.isreg() or member.issym() or member.islnk()):
        raise ValueError(f"{member.name} is a device")
    # A hard link is packed as the file that it is.
    link = member.linkname if member.issym() else None
    return member.name, member.mode, link, lambda: archive.extractfile(member)


def zip_member(archive, member):
    """The same of a member of a zip."""
    mode = member.external_attr >> 16
    link = archive.read(member).decode() if stat.S_ISLNK(mode) else None
    return member.filename, mode, link, lambda: archive.open(member)


def unpack(members, work):
    """Write members into an empty directory, nothing outside, and refuse an archive that wants it otherwise.

    Links are made last, so that nothing is written through one, and then followed to see where they lead.
    """
    parts = {}
    for member in members:
        found = [part for part in member[0].split("/") if part not in ("", ".")]
        if member[0].startswith("/") or ".." in found or not found:
            raise ValueError(f"{member[0]} is outside of it")
        if found[0] != "__MACOSX":
            parts[tuple(found)] = member
    tops = {path[0] for path in parts}
    strip = 1 if len(tops) == 1 and all(len(path) > 1 for path in parts) else 0
    links = []
    for path, (name, mode, link, opened) in parts.items():
        target = work.joinpath(*path[strip:])
        target.parent.mkdir(parents=True, exist_ok=True)
        if link is not None:
            links.append((name, target, link))
            continue
        with opened() as content, open(target, "xb") as file:
            shutil.copyfileobj(content, file)
        target.chmod(0o755 if mode & 0o111 else 0o644)
    for _, target, link in links:
        target.symlink_to(link)
    for name, target, link in links:
        if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(work)):
            raise ValueError(f"{name} is a link to {link}, outside of it")


def from_package(source, root_dir, work, cache):
    """A package of an index: there is no source, only a requirement."""
    said = source["package"]
    name, version, extras = said.get("name"), said.get("version"), said.get("extras") or []
    word = r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
    for key, value in {"name": name, **dict.fromkeys(["extras"] * bool(extras), "".join(extras))}.items():
        if not isinstance(value, str) or not re.fullmatch(word, value):
            raise Wrong(f"source.package.{key}", f"'{value}' is no name of a package. Write it as its index does.")
    if not isinstance(version, str) or not re.fullmatch(r"[A-Za-z0-9.!+_-]+", version):
        raise Wrong(
            "source.package.version",
            f"'{version}' is no version. Name one, in quotes, so that each deploy installs the same.",
        )
    (work / "requirements.txt").write_text(f"{name}{'[' + ','.join(extras) + ']' if extras else ''}=={version}\n")
    return work, [b"requirements.txt"]


# -- What it must have -------------------------------------------------------------------------------------------------


def check_root(spec, names):
    """Give the directory of the project inside its source; it must be there."""
    root = os.path.normpath(spec["source"].get("root") or ".")
    if root == ".":
        return root
    folders = sorted({name.split("/")[0] for name in names if "/" in name})
    if root.startswith(("/", "..")) or not any(name.startswith(f"{root}/") for name in names):
        has = f"It has: {', '.join(folders)}" if folders else "It has no directories"
        raise Wrong("source.root", f"there is no directory {root} in the source. {has}.")
    return root


def check_requirements(spec, directory, names, root):
    """Refuse a source which does not have the files that say what it requires."""
    dependencies = spec.get("dependencies") or {}
    asked = dependencies.get("requirements")
    if asked is None:
        found = [name for name in REQUIREMENTS if os.path.normpath(f"{root}/{name}") in names][:1]
        if not found and not dependencies.get("extra"):
            raise Wrong(
                "dependencies.requirements",
                f"the source has no {', '.join(REQUIREMENTS[:-1])} or {REQUIREMENTS[-1]} in {where(root)}."
                " Name the files that say what it requires, or list packages in dependencies.extra.",
            )
    else:
        found = asked
        missing = [name for name in asked if os.path.normpath(f"{root}/{name}") not in names]
        if missing:
            raise Wrong(
                "dependencies.requirements",
                f"the source has no {', no '.join(missing)} in {where(root)}. Name files as they are seen from there.",
            )
    for name in found:
        if os.path.basename(name) == "pyproject.toml":
            check_pyproject(name, directory / root / name)


def check_pyproject(name, path):
    """Refuse one that does not say itself what is required: to find out, its build would have to run here."""
    try:
        project = tomllib.loads(path.read_text()).get("project")
    except ValueError as exc:
        raise Wrong("dependencies.requirements", f"{name} is no TOML: {exc}. Edit it.") from exc
    if project is None or "dependencies" in project.get("dynamic", []):
        raise Wrong(
            "dependencies.requirements",
            f"{name} has no list of dependencies under [project]. Export a requirements.txt and name that.",
        )


def where(root):
    """A directory of the source, for a sentence."""
    return "its top directory" if root == "." else root


# -- Its archive -------------------------------------------------------------------------------------------------------


def write_tar(directory, names, path):
    """An archive of these files that depends on nothing but their names, content and executable bits."""
    mode = ["--owner=0", "--group=0", "--numeric-owner", "--mode=a+rX,go-w", "--mtime=@0"]
    command = ["tar", "--create", f"--file={path}", "--no-recursion", "--null", "--files-from=-", *mode]
    done = subprocess.run(
        command, cwd=directory, input=b"".join(name + b"\0" for name in sorted(names)), capture_output=True
    )
    if done.returncode:
        raise Wrong("source", f"tar cannot pack it: {in_a_sentence(done.stderr.decode(errors='replace'))}")


def release_of(spec, archive):
    """The name of a release: what is in its source, and what else it is made from."""
    digest = hashlib.sha256(archive.read_bytes())
    for name in (*LAID, BUILDER):
        digest.update((Path(__file__).parent / name).read_bytes())
    dependencies = spec.get("dependencies") or {}
    counts = {
        "dependencies": dependencies,
        "package": spec["source"].get("package"),
        "build": spec.get("build"),
        "root": os.path.normpath(spec["source"].get("root") or ".").removeprefix("."),
        # Decides on the server that is added to what the project requires.
        "web": None if dependencies.get("require_hashes") else spec.get("web"),
    }
    counts = {name: value for name, value in counts.items() if value}
    if counts:
        digest.update(json.dumps(counts, sort_keys=True, separators=(",", ":")).encode())
    return digest.hexdigest()[:12]


def pack(spec, cache):
    """The path of the archive of a project."""
    source = spec.get("source") or {}
    kinds = [kind for kind in KINDS if source.get(kind)]
    if len(kinds) != 1:
        has = f"it has {' and '.join(kinds)}" if kinds else "it has none"
        raise Wrong("source", f"{has}. Give exactly one of {', '.join(KINDS)}.")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pack.", dir=cache) as name:
        work = Path(name)
        (work / "source").mkdir()
        made = {"path": from_path, "git": from_git, "archive": from_archive, "package": from_package}[kinds[0]]
        directory, names = made(source, spec["root_dir"], work / "source", cache)
        texts = {os.fsdecode(name) for name in names}
        check_requirements(spec, directory, texts, check_root(spec, texts))
        write_tar(directory, names, work / "tar")
        archive = cache / f"{release_of(spec, work / 'tar')}.tar"
        os.replace(work / "tar", archive)
    return archive


def main():
    """Print the paths, or the one sentence that says what is wrong."""
    os.umask(0o077)
    cache, archives = Path(sys.argv[1]).absolute(), {}
    for spec in map(json.loads, sys.argv[2:]):
        name = spec["name"]
        try:
            archives[name] = str(pack(spec, cache / name))
        except Wrong as exc:
            sys.exit(f"quintet: {name}: {exc}")
        except OSError as exc:
            sys.exit(
                f"quintet: {name}: source: {exc.strerror}: {exc.filename}. Whoever runs this must be able to use it"
            )
    print(json.dumps(archives))


if __name__ == "__main__":
    main()
