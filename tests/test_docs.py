"""The documents name things that exist: links, headings, files and make targets."""

import re
import subprocess

import pytest
import yaml

from tests import options
from tests.samples import topology
from tests.topology import ROOT

REQUIRED = [
    "CHANGELOG.md",
    "README.md",
    "STYLE.md",
    "docs/architecture.md",
    "docs/bring-your-project.md",
    "docs/tour.md",
]
MOST_OF_THE_TOUR = 8


def output(*command):
    """What a command prints, run in the repository."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


LISTED = output("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
# Git lists what was deleted, too, until that is committed.
FILES = [path for path in LISTED if (ROOT / path).is_file()]
FOLDERS = {path.split("/")[0] for path in FILES if "/" in path}
MARKDOWN = sorted({path for path in FILES if path.endswith(".md")} | set(REQUIRED))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
each_document = pytest.mark.parametrize("path", MARKDOWN)
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)


def read(path):
    return (ROOT / path).read_text()


def code(text):
    """The code in a document, line by line: of its blocks, and between backticks."""
    for block in FENCE.findall(text):
        yield from block.splitlines()[1:-1]
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def links(text):
    """Where a document's links and pictures lead, other than to the world."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    found = re.findall(r"\]\(([^)\s]+)[^)]*\)", prose)
    found += re.findall(r"^\[[^\]]+\]: (\S+)", prose, re.MULTILINE)
    found += re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(text):
    """The anchors of a document's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


def expanded(pattern):
    """A path with {a,b} in it, as a shell expands it."""
    found = re.search(r"\{([^{}]*)\}", pattern)
    if not found:
        return [pattern]
    before, after = pattern[: found.start()], pattern[found.end() :]
    return [path for part in found[1].split(",") for path in expanded(before + part + after)]


def paths(text):
    """The paths of this repository that a document names in code; `<name>` stands for anything."""
    for line in code(text):
        for word in re.split(r"[\s=,:;()'\"]+(?![^{]*\})", line):
            if "/" in word and word.split("/")[0] in FOLDERS:
                yield from expanded(re.sub(r"<[^>]*>|\.\.\.|…", "*", word.rstrip(".")))


def exists(path):
    """Whether a path, or something that fits it, is in the repository; what git ignores is made by a run."""
    ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False).returncode == 0
    return ignored or any(ROOT.glob(path.rstrip("/")))


def targets(text):
    """The make targets that a document names in code."""
    for line in code(text):
        for command in re.findall(r"(?:^|&& |\$ )make\b([^#;&|]*)", line.strip()):
            yield from (word for word in command.split() if "=" not in word and not word.startswith(("-", "<", "[")))


@pytest.mark.parametrize("path", REQUIRED)
def test_document_exists(path):
    assert len(read(path).splitlines()) > 5


@each_document
def test_links_lead_somewhere(path):
    for link in links(read(path)):
        target, _, anchor = link.partition("#")
        file = (ROOT / path).parent / target if target else ROOT / path
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(file.read_text()), link


@each_document
def test_paths_exist(path):
    assert not [one for one in paths(read(path)) if not exists(one)]


@each_document
def test_make_targets_exist(path):
    assert set(targets(read(path))) <= TARGETS


def test_the_tour_is_short():
    stops = re.findall(r"^\d+\. \[[^\]]+\]\(([^)]+)\)", read("docs/tour.md"), re.MULTILINE)
    assert 1 <= len(set(stops)) == len(stops) <= MOST_OF_THE_TOUR
    assert all((ROOT / "docs" / stop).is_file() for stop in stops)


def test_make_help_describes_every_target():
    described = set(re.findall(r"^  make ([a-z-]+) +\S", output("make", "help"), re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split()) - {"FORCE"}
    assert described == phony
    assert described <= TARGETS


def test_every_scenario_is_among_the_tests():
    scenarios = {path.parent.name for path in ROOT.glob("molecule/*/molecule.yml")}
    assert "quintet" in scenarios
    told = subprocess.check_output(["make", "--dry-run", "test-all"], cwd=ROOT, text=True)
    assert set(re.findall(r"molecule test --scenario-name (\w+)", told)) == scenarios


def test_the_readme_has_both_commands_and_continuous_integration_runs_the_second():
    assert {"deploy", "test"} <= set(targets(read("README.md")))
    assert "make test" in read(".ci/run")


# -- The readers above, on a document that is wrong -------------------------------------------------------------------

WRONG = """\
# One `heading`, and another

## Twice
## Twice

See [this](docs/none.md "title"), [here](#twice-1), ![picture](x.png), <img src="y.png"> and
[the world](https://example.org). `[no](link)`; run `make TOPOLOGY=onebox depoly`.

[late]: z.md

```console
$ make -n nonsense  # make believe
vi roles/{base,none}/tasks/main.yml inventories/<name>.yml tests/none.py
```

A path, `playbooks/none.yml`, and `not/ours.yml`. We make do.
"""


def test_what_is_wrong_is_found():
    assert links(WRONG) == ["docs/none.md", "#twice-1", "x.png", "z.md", "y.png"]
    assert anchors(WRONG) == ["one-heading-and-another", "twice", "twice-1"]
    assert list(targets(WRONG)) == ["nonsense", "depoly"]
    assert [path for path in paths(WRONG) if not exists(path)] == [
        "roles/none/tasks/main.yml",
        "tests/none.py",
        "playbooks/none.yml",
    ]


# -- Projects of others -----------------------------------------------------------------------------------------------


def test_the_table_of_options_is_that_of_the_settings():
    assert options.PAGE.read_text() == options.page(), "python -m tests.options writes it"


def test_the_examples_are_what_the_scenario_deploys():
    entries = yaml.safe_load(read("molecule/foreign/group_vars/all/projects.yml"))["django_projects"]
    examples = read("docs/bring-your-project.md").partition("## Three examples")[2].partition("## All options")[0]
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", examples, re.DOTALL)]
    assert len(blocks) == 3
    for [example] in blocks:
        assert example in entries, example["name"]


def test_every_place_is_on_the_page():
    places = topology("quintet").render("web1", "project_values | list", project={})
    text = read("docs/bring-your-project.md").partition("## Places")[2].partition("## Three")[0]
    for place in places:
        service, _, name = place.partition(".")
        assert f"`{{{place}}}`" in text or (f"`{{{service}.url}}`" in text and f"`{name}`" in text), place
