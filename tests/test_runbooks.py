"""A runbook is words, deed and proof in one folder; the index leads to it, and a scenario runs its proof."""

import re
import subprocess

import pytest
import yaml

from tests.topology import ROOT

RUNBOOKS = ROOT / "playbooks/runbooks"
HEADINGS = ["When", "Effect", "Before", "Do", "Expect", "Undo"]
MOST_LINES = 60


def folders():
    """The names of the folders of runbooks."""
    return sorted(path.name for path in RUNBOOKS.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))


def indexed():
    """The runbooks that the index leads to, from a symptom."""
    table = (RUNBOOKS / "README.md").read_text().partition("\n## ")[0]
    return re.findall(r"^\| .+ \| .*\[(\w+)\]\(\1/README\.md\)", table, re.MULTILINE)


def verified():
    """The folders whose tests some scenario runs."""
    found = set()
    for path in ROOT.glob("molecule/*/molecule.yml"):
        for step in yaml.safe_load(path.read_text())["scenario"]["test_sequence"]:
            verb, _, folder = step.partition(" ")
            if verb == "verify":
                found.add((path.parent / folder).resolve())
    return found


def wrong_with(name, folder, text):
    """What is wrong with a runbook whose folder has these files, and whose page is this text."""
    wrong = [f"no {file}" for file in ("README.md", "playbook.yml", f"test_{name}.py") if file not in folder]
    headings = re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE)
    if headings != HEADINGS:
        wrong.append(f"its headings are {headings}")
    if not re.match(r"# [A-Z][^\n]+[^.\n]\n\n\*\*When\.", text):
        wrong.append("no title, or something before When")
    if f"playbooks/runbooks/{name}/playbook.yml" not in text.partition("**Do.**")[2].partition("**Expect.**")[0]:
        wrong.append("Do does not run its playbook")
    if len(text.splitlines()) > MOST_LINES:
        wrong.append("longer than a page")
    return wrong


def test_there_are_runbooks():
    assert "manage" in folders()


@pytest.mark.parametrize("name", folders())
def test_runbook_is_whole(name):
    page = RUNBOOKS / name / "README.md"
    files = {path.name for path in page.parent.iterdir()}
    assert wrong_with(name, files, page.read_text() if page.is_file() else "") == []


@pytest.mark.parametrize("name", folders())
def test_variables_of_a_playbook_begin_with_its_name(name):
    text = (RUNBOOKS / name / "README.md").read_text()
    asked = set(re.findall(r"-e '?(\w+)=", text))
    assert {one for one in asked if one != "confirm" and not one.startswith(f"{name}_")} == set()


@pytest.mark.parametrize("name", folders())
def test_a_scenario_runs_its_proof(name):
    folder = RUNBOOKS / name
    assert verified() & {folder, *folder.parents}
    tests = (folder / f"test_{name}.py").read_text()
    assert "def test_" in tests
    assert f"runbooks/{name}/playbook.yml" in tests


def test_the_index_leads_to_each():
    assert sorted(set(indexed())) == folders()


def test_make_lists_each():
    said = subprocess.run(["make", "-s", "runbooks"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in said.splitlines()] == folders()
    assert all(len(line.split()) > 2 for line in said.splitlines())


# -- The readers above, on a runbook that is wrong --------------------------------------------------------------------

GOOD = "# Do it\n\n" + "".join(f"**{heading}.** playbooks/runbooks/x/playbook.yml\n\n" for heading in HEADINGS)


@pytest.mark.parametrize(
    ("files", "text", "wrong"),
    [
        ({"README.md", "playbook.yml", "test_x.py"}, GOOD, 0),
        ({"README.md", "playbook.yml", "test_y.py"}, GOOD, 1),
        ({"README.md", "playbook.yml", "test_x.py"}, GOOD.replace("**Undo.**", "Undo."), 1),
        ({"README.md", "playbook.yml", "test_x.py"}, GOOD.replace("/x/", "/y/"), 1),
        ({"README.md", "playbook.yml", "test_x.py"}, GOOD.replace("# Do it", "# Do it."), 1),
        ({"README.md", "playbook.yml", "test_x.py"}, GOOD + "\n" * MOST_LINES, 1),
        (set(), "", 6),
    ],
)
def test_what_is_wrong_is_found(files, text, wrong):
    assert len(wrong_with("x", files, text)) == wrong
