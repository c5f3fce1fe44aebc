"""A role sees only what it is given, and the house rules of STYLE.md that a program can check."""

import re
import subprocess

import jinja2
import jinja2.meta
import jinja2.nodes
import pytest
import yaml

from tests.samples import TOPOLOGIES, role_names, topology
from tests.topology import ROOT

ROLES = role_names()
# What a role may know besides its own variables: what Ansible says about the run, nothing about the inventory.
MAGIC = {"ansible_managed", "ansible_facts", "ansible_check_mode", "role_path", "omit", "item"}
CONDITIONS = ("when", "that", "until", "failed_when", "changed_when")
BLOCKS = ("block", "rescue", "always")
SECRET = re.compile(r"password|secret|environment", re.IGNORECASE)
# Templates that cannot say who wrote them.
UNMANAGED = {
    "redis/users.acl.j2": "Redis takes a comment in an ACL file for an error",
    "rabbitmq/enabled_plugins.j2": "RabbitMQ rewrites it, and wants one Erlang term",
}


def files(role, *folders):
    """The text files of a role's folders."""
    return [path for folder in folders for path in sorted((ROOT / "roles" / role / folder).rglob("*.*"))]


def flat(tasks):
    """Tasks, and those in blocks."""
    for task in tasks:
        yield task
        for key in BLOCKS:
            yield from flat(task.get(key, []))


TASKS = [
    (role, path, task)
    for role in ROLES
    for path in files(role, "tasks", "handlers")
    for task in flat(yaml.safe_load(path.read_text()))
]
TASK_IDS = [f"{role}-{path.stem}-{task.get('name')}" for role, path, task in TASKS]
each_task = pytest.mark.parametrize(("role", "path", "task"), TASKS, ids=TASK_IDS)
TEMPLATES = [(role, path) for role in ROLES for path in files(role, "templates")]
each_template = pytest.mark.parametrize(("role", "path"), TEMPLATES, ids=[f"{r}-{p.name}" for r, p in TEMPLATES])
each_role = pytest.mark.parametrize("role", ROLES)


def strings(value, key=""):
    """All templates in a YAML value; a condition is one without its braces."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from strings(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one, key)
    elif isinstance(value, str):
        yield "{{ " + value + " }}" if key in CONDITIONS else value


def names(texts):
    """The variables that templates use."""
    parser, found = jinja2.Environment(), set()
    for tree in map(parser.parse, texts):
        # Ansible's filters and tests need only be known by name.
        parser.filters.update({node.name: str for node in tree.find_all(jinja2.nodes.Filter)})
        parser.tests.update({node.name: str for node in tree.find_all(jinja2.nodes.Test)})
        found |= jinja2.meta.find_undeclared_variables(tree)
    return found


def expressions(text):
    """The Jinja parts of a text."""
    return " ".join(re.findall(r"\{[{%].*?[%}]\}", text, re.DOTALL))


def templates_of(role, task):
    """The texts of the templates that a task renders; of all its role's when a loop says which."""
    source = (task.get("ansible.builtin.template") or {}).get("src", "")
    wanted = re.sub(r"\{\{.*?\}\}", "*", source)
    found = list((ROOT / f"roles/{role}/templates").glob(wanted)) if wanted else []
    assert bool(found) == bool(wanted), f"no template {source}"
    return [path.read_text() for path in found]


# -- What a role sees -------------------------------------------------------------------------------------------------


@each_role
def test_role_uses_its_own_variables_only(role):
    texts = [path.read_text() for path in files(role, "templates")]
    for path in files(role, "tasks", "handlers", "defaults", "vars"):
        texts += strings(yaml.safe_load(path.read_text()))
    loops = {task["loop_control"]["loop_var"] for _, _, task in TASKS if "loop_var" in task.get("loop_control", {})}
    foreign = {name for name in names(texts) - MAGIC - loops if not name.startswith((f"{role}_", f"__{role}_"))}
    assert not foreign


@each_role
def test_role_names_no_group(role):
    for path in files(role, "tasks", "handlers", "templates", "defaults", "vars", "files"):
        found = re.findall(r"\bgroups\s*[\[.]|\bgroup_names\b|\bhostvars\b|\binventory_\w+", path.read_text())
        assert not found, path.name


@each_role
def test_constants_and_results_are_marked_as_the_roles_own(role):
    for path in files(role, "vars"):
        assert not [name for name in yaml.safe_load(path.read_text()) if not name.startswith(f"__{role}_")]
    registered = [task["register"] for owner, _, task in TASKS if owner == role and "register" in task]
    assert not [name for name in registered if not name.startswith(f"__{role}_")]


@each_task
def test_task_is_plain(role, path, task):
    assert not [key for key in task if key.rpartition(".")[2] == "set_fact"]
    assert "ignore_errors" not in task
    assert not [text for text in strings(task) if re.search(r"\bdefault\(|\bd\(", text)], "use a default of the role"


def test_conditions_are_few():
    conditional = [task["name"] for _, _, task in TASKS if "when" in task]
    assert len(conditional) < 0.2 * len(TASKS), conditional


# -- House rules ------------------------------------------------------------------------------------------------------


@each_task
def test_task_name(role, path, task):
    prefix, _, name = task["name"].rpartition(" | ")
    assert prefix == ("" if path.stem == "main" else path.stem.capitalize())
    assert name[0].isupper()
    assert not name.endswith(".")
    assert not re.match(r"\w{3,}ing\b", name), "say what to do"


@each_task
def test_modes_are_quoted(role, path, task):
    for arguments in task.values():
        if isinstance(arguments, dict) and "mode" in arguments:
            assert re.fullmatch(r"0[0-7]{3}", str(arguments["mode"]))
            assert isinstance(arguments["mode"], str)
    if "ansible.builtin.template" in task:
        assert {"owner", "group", "mode"} <= task["ansible.builtin.template"].keys()


@each_task
def test_secrets_are_not_shown(role, path, task):
    text = " ".join([*strings(task), *templates_of(role, task)])
    if SECRET.search(expressions(text)):
        assert task.get("no_log") or task.get("diff") is False


def test_there_are_tasks_with_secrets():
    """The test above is one over nothing if it never finds any."""
    found = {role for role, _, task in TASKS if task.get("no_log")}
    assert found >= {"postgresql", "redis", "django_project"}


@each_template
def test_template_says_who_wrote_it(role, path):
    lines = path.read_text().splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    assert (first == "{{ ansible_managed | comment }}") != (f"{role}/{path.name}" in UNMANAGED)


def test_exceptions_exist():
    assert UNMANAGED.keys() <= {f"{role}/{path.name}" for role, path in TEMPLATES}


# -- Playbooks and the repository -------------------------------------------------------------------------------------

PLAYS = [
    (path, play)
    for path in sorted((ROOT / "playbooks").rglob("*.yml"))
    if isinstance(content := yaml.safe_load(path.read_text()), list)
    for play in content
    if "hosts" in play
]


@pytest.mark.parametrize(("path", "play"), PLAYS, ids=[f"{path.name}-{play['name']}" for path, play in PLAYS])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_hosts_of_a_play_are_groups(name, path, play):
    known = topology(name).groups.keys() | {"localhost"}
    assert {part.lstrip("!&") for part in re.split("[:,]", play["hosts"])} <= known


def test_topologies_have_the_same_groups():
    assert len({frozenset(topology(name).groups) for name in TOPOLOGIES}) == 1


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    pattern = r"(^|[^[:alnum:]_.})-])/" + r"work/"
    command = ["git", "grep", "--untracked", "-nIE", pattern]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout + found.stderr
