"""Other releases of the projects than the inventory's, and what runs of them."""

import shutil
import subprocess

from tests.topology import ROOT
from verify import FIRST, contract, node

DIRECTORY = contract("projects_directory")


def running(project):
    """The release that a project runs; one, on all its hosts."""
    [entry] = [one for one in contract("projects") if one["name"] == project]
    found = {node(host).check_output(f"readlink {DIRECTORY}/{project}/current") for host in entry["hosts"]}
    assert len(found) == 1, f"{project} runs {found}"
    return found.pop().removeprefix("releases/")


def kept(project):
    """The releases of a project that are kept, on its first host."""
    found = node(FIRST).check_output(f"ls -1 {DIRECTORY}/{project}/releases/*/complete")
    return {path.split("/")[-2] for path in found.splitlines()}


def changed(directory, project, edits):
    """The variables of a deploy with another source of a project, which is made in a directory.

    `edits` are, by the name of a file, its text, or what is in it and what is to stand there instead.
    """
    entries = contract("django_projects")
    [entry] = [one for one in entries if one["name"] == project]
    origin, source = ROOT / entry["source"]["path"], directory / project
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "."]
    for name in subprocess.run(command, cwd=origin, capture_output=True, text=True, check=True).stdout.split("\0"):
        if name and (origin / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(origin / name, source / name)
    for name, edit in edits.items():
        text = edit
        if not isinstance(edit, str):
            text = (source / name).read_text()
            assert edit[0] in text, f"{name} has changed: {edit[0]!r} is not in it"
            text = text.replace(*edit)
        (source / name).write_text(text)
    entry["source"] = {"path": str(source)}
    return {"django_projects": entries}
