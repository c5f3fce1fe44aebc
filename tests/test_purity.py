"""A role sees only what it is given, and the house rules of STYLE.md that a program can check."""

import functools
import re
import subprocess

import jinja2
import jinja2.meta
import jinja2.nodes
import pytest
import yaml

from tests.samples import TOPOLOGIES, argument_spec, role_names, topology
from tests.topology import ROOT

ROLES = role_names()
# What a role may know besides its own variables: what Ansible says about the run, nothing about the inventory.
MAGIC = {
    "ansible_managed",
    "ansible_facts",
    "ansible_check_mode",
    "ansible_playbook_python",
    "role_path",
    "omit",
    "item",
}
LOOKUPS = ("rendered", "ansible.builtin.file", "ansible.builtin.pipe")
CONDITIONS = ("when", "that", "until", "failed_when", "changed_when")
BLOCKS = ("block", "rescue", "always")
SECRET = re.compile(r"password|passphrase|secret|environment", re.IGNORECASE)
OURS = {path.stem for path in (ROOT / "plugins/modules").glob("*.py")}
# Templates that cannot say who wrote them.
UNMANAGED = {
    "haproxy/quintet.lua.j2": "comments of Lua begin otherwise",
    "redis/sentinel.acl.j2": "Redis takes a comment in an ACL file for an error",
    "redis/users.acl.j2": "Redis takes a comment in an ACL file for an error",
    "rabbitmq/distribution.config.j2": "Erlang's comments begin with a percent sign",
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


@functools.cache
def parsed(text):
    """The tree of a template."""
    parser = jinja2.Environment()
    tree = parser.parse(text)
    # Ansible's filters and tests need only be known by name.
    parser.filters.update({node.name: str for node in tree.find_all(jinja2.nodes.Filter)})
    parser.tests.update({node.name: str for node in tree.find_all(jinja2.nodes.Test)})
    return tree


def is_lookup(node):
    """Whether a part of a template is a call that a role may make: a template's text, or a program's output."""
    return (
        isinstance(node, jinja2.nodes.Call)
        and isinstance(node.node, jinja2.nodes.Name)
        and node.node.name == "lookup"
        and isinstance(node.args[0], jinja2.nodes.Const)
        and node.args[0].value in LOOKUPS
    )


def names(texts):
    """The variables that templates use and do not set; `lookup` too, where it is for anything else than LOOKUPS."""
    found = set()
    for tree in map(parsed, texts):
        undeclared = jinja2.meta.find_undeclared_variables(tree)
        calls = [node for node in tree.find_all(jinja2.nodes.Name) if node.name == "lookup"]
        if len(calls) == len([node for node in tree.find_all(jinja2.nodes.Call) if is_lookup(node)]):
            undeclared.discard("lookup")
        found |= undeclared
    return found


def looked_up(role, node):
    """The files of the templates that a lookup is for; a part of the name that is no constant is any."""
    if node.args[0].value != "rendered":
        return []
    parts = node.args[1].nodes if isinstance(node.args[1], jinja2.nodes.Concat) else [node.args[1]]
    wanted = "".join(part.value if isinstance(part, jinja2.nodes.Const) else "*" for part in parts)
    found = sorted((ROOT / f"roles/{role}/templates").glob(wanted))
    assert found, f"no template {wanted}"
    assert wanted.strip("*"), "any template"
    return found


@functools.cache
def own_variables(role):
    """The constants of a role, as they are written."""
    return {name: one for path in files(role, "vars") for name, one in yaml.safe_load(path.read_text()).items()}


def uses(role, value, keys=(), condition=False):
    """All that goes into a YAML value, as (keys that it stands under, name): of variables, and what is taken of them.

    The role's own variables and the templates that it looks up are followed, and keys of Jinja's dicts are keys too.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            yield from uses(role, one, (*keys, key), key in CONDITIONS)
    elif isinstance(value, list):
        for one in value:
            yield from uses(role, one, keys, condition)
    elif isinstance(value, str):
        yield from uses_of_node(role, parsed("{{ " + value + " }}" if condition else value), keys)


def uses_of_node(role, node, keys):
    if isinstance(node, jinja2.nodes.Name) and node.ctx == "load":
        yield keys, node.name
        yield from uses(role, own_variables(role).get(node.name), keys)
    elif isinstance(node, jinja2.nodes.Getattr):
        yield keys, node.attr
    elif isinstance(node, jinja2.nodes.Getitem) and isinstance(node.arg, jinja2.nodes.Const):
        yield keys, str(node.arg.value)
    elif isinstance(node, jinja2.nodes.For) and isinstance(node.iter, jinja2.nodes.Name):
        # What goes into the text is what is taken of each turn.
        yield from uses(role, own_variables(role).get(node.iter.name), keys)
        node = jinja2.nodes.Output([*node.body, *node.else_, *([node.test] if node.test else [])])
    elif isinstance(node, jinja2.nodes.Pair) and isinstance(node.key, jinja2.nodes.Const):
        keys = (*keys, node.key.value)
    elif isinstance(node, jinja2.nodes.Filter) and node.name == "hash" and is_lookup(node.node):
        return  # the digest of a whole file is no secret
    elif is_lookup(node):
        for path in looked_up(role, node):
            yield keys, path
            yield from uses_of_node(role, parsed(path.read_text()), keys)
    for child in node.iter_child_nodes():
        yield from uses_of_node(role, child, keys)


def carries(option):
    """Whether an option has a secret in it: one of its options is no_log."""
    return any(one.get("no_log") or carries(one) for one in (option.get("options") or {}).values())


@functools.cache
def carriers(role):
    """The inputs of a role that have secrets in them."""
    specs = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]
    return {name for name, option in specs["main"]["options"].items() if carries(option)}


def hidden(role, keys, name):
    """Whether what stands under these keys of a task is kept out of logs and diffs: an option of ours that is no_log.

    An input with secrets in it may be given whole to one that has its own.
    """
    if keys[0] not in OURS:
        return False
    option = {"options": argument_spec(keys[0])}
    for key in keys[1:]:
        option = option.get("options", {}).get(key, {})
        if option.get("no_log"):
            return True
    return name in carriers(role) and carries(option)


def secrets(role, task):
    """What is secret in a task's arguments, as (keys, name)."""
    keywords = {"name", "register", "loop_control"}
    arguments = {key: value for key, value in task.items() if key not in keywords}
    found = [(keys, name) for keys, name in uses(role, arguments) if isinstance(name, str)]
    # What Ansible registered, and the name of a constant of ours, are no secret by their names.
    return [
        (keys, name)
        for keys, name in found
        if name in carriers(role) or (SECRET.search(name) and name not in own_variables(role))
    ]


def shown_secrets(role, task):
    """Those of them that the task would show."""
    if task.get("no_log") or task.get("diff") is False:
        return []
    return [(keys, name) for keys, name in secrets(role, task) if not hidden(role, keys, name)]


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


def test_more_settings_are_the_users():
    """Who sets a role's `_settings` loses nothing that a topology wants: that has names of its own."""
    texts = [yaml.safe_load(path.read_text()) or {} for path in ROOT.glob("inventories/group_vars/**/*.yml")]
    found = {name for text in texts for name in text if name.endswith("_settings")}
    # Which has its place in the contract.
    assert found == {"pgbackrest_settings"}


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
    for name in {"ansible.builtin.template", "ansible.builtin.copy"} & task.keys():
        assert {"owner", "group", "mode"} <= task[name].keys()


def modes(value):
    """The modes in a YAML value, those in Jinja's dicts too."""
    if isinstance(value, dict):
        yield from (one for key, one in value.items() if key == "mode")
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from modes(one)
    if isinstance(value, str):
        for pair in parsed(value).find_all(jinja2.nodes.Pair):
            if pair.key == jinja2.nodes.Const("mode"):
                yield pair.value.value if isinstance(pair.value, jinja2.nodes.Const) else pair.value


@each_role
def test_modes_of_our_files_are_quoted(role):
    found = [*modes(own_variables(role)), *modes([task for owner, _, task in TASKS if owner == role])]
    assert not [one for one in found if not isinstance(one, str) or not re.fullmatch(r"0[0-7]{3}", one)]


def test_modes_are_found():
    assert list(modes({"a": [{"mode": 420}], "b": "{{ [{'mode': '0640'}, {'mode': x}] }}"}))[:2] == [420, "0640"]
    assert len(list(modes("{{ {'mode': x} }}"))) == 1


@each_task
def test_secrets_are_not_shown(role, path, task):
    assert not shown_secrets(role, task)


def test_every_secret_is_found():
    """The test above is one over nothing where none is found: these are all."""
    found = {(role, ".".join(keys)) for role, _, task in TASKS for keys, _ in secrets(role, task)}
    assert found == {
        ("django_project", "systemd_units.files.secret"),
        ("django_project", "systemd_units.files.secret.django_project_environment"),
        ("patroni", "postgresql_access.roles.password"),
        ("pgbackrest", "systemd_units.files.secret.repo1-cipher-pass"),
        ("postgresql", "postgresql_access.roles.password"),
        ("rabbitmq", "rabbitmq_access.users"),
        ("redis", "redis_group.masterauth"),
        ("redis", "redis_group.password"),
        ("redis", "systemd_units.files.secret"),
    }


FILE = {"path": "/x", "content": "{{ redis_users[0].password }}"}
SHOWN = {
    "content": {"systemd_units": {"files": [FILE]}},
    "content of a template": {"systemd_units": {"files": [{"content": "{{ lookup('rendered', 'users.acl.j2') }}"}]}},
    "content in a dict of Jinja": {
        "systemd_units": {"files": "{{ [{'content': redis_users[0]['password']}] }}"},
    },
    "an option that is not hidden": {"rabbitmq_access": {"vhosts": [{"name": "{{ broker_password }}"}]}},
    "all of the users": {"systemd_units": {"units": "{{ redis_users }}"}},
    "a loop": {"ansible.builtin.command": "x {{ item }}", "loop": "{{ redis_users }}"},
    "a command": {"ansible.builtin.command": "x {{ broker_password }}"},
    "a condition": {"ansible.builtin.command": "x", "when": "broker_password"},
}


@pytest.mark.parametrize("name", SHOWN)
def test_a_secret_that_is_shown_is_found(name):
    assert shown_secrets("redis", SHOWN[name])
    assert not shown_secrets("redis", SHOWN[name] | {"no_log": True})


def test_a_secret_that_is_hidden_is_none():
    assert not shown_secrets("redis", {"systemd_units": {"files": [{"secret": "{{ redis_users[0].password }}"}]}})
    assert not shown_secrets("redis", {"rabbitmq_access": {"users": [{"password": "{{ broker_password }}"}]}})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{%- set files = [] -%}{%- for a, b in redis_x -%}{{ files + a + b + c }}{%- endfor -%}{{ files }}", {"c"}),
        ("{%- for a in redis_x -%}{%- set d = a -%}{%- endfor -%}{{ d }}", {"d"}),
        ("{{ lookup('rendered', x, template_vars={'item': y}) }}", {"x", "y"}),
        ("{{ lookup('ansible.builtin.vars', 'foreign') }}", {"lookup"}),
        ("{{ lookup('rendered', 'x.j2') ~ lookup('ansible.builtin.env', 'x') }}", {"lookup"}),
        ("{{ query('rendered', 'x.j2') | foreign_filter }}", {"query"}),
    ],
)
def test_foreign_names_are_found(text, found):
    assert names([text]) - {"redis_x"} == found


@each_template
def test_template_is_used(role, path):
    own = [task for owner, _, task in TASKS if owner == role]
    assert path in [name for keys, name in uses(role, own)]


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


def local(found):
    """Those of some tasks and plays that are for the controller, as they say in their variables."""
    return [one for one in found if (one.get("vars") or {}).get("ansible_connection") == "local"]


def test_nothing_asks_for_sudo_on_the_controller():
    """What the inventory says of the hosts (`ansible_become`) wins over a task's `become`."""
    tasks = [task for _, play in PLAYS for task in flat(play.get("tasks", []))] + [task for _, _, task in TASKS]
    here = local([play for _, play in PLAYS]) + local(tasks)
    assert len(here) > 5
    assert {task["name"] for task in tasks if task.get("delegate_to") == "localhost"} <= {one["name"] for one in here}
    assert [one["name"] for one in here if one["vars"].get("ansible_become") is not False] == []


def delegated(found):
    """The tasks in what a file of tasks or plays has, at any depth, that another host does."""
    if isinstance(found, list):
        return [task for one in found for task in delegated(one)]
    if isinstance(found, dict):
        own = [found] if found.get("delegate_to", "localhost") != "localhost" else []
        return own + [task for value in found.values() for task in delegated(value)]
    return []


def test_what_another_host_does_reaches_that_host():
    """Ansible reads what an overlay derives from a host's name with the name of the host that delegates."""
    texts = [path.read_text() for where in ("playbooks", "roles") for path in (ROOT / where).rglob("*.yml")]
    tasks = [task for text in texts for task in delegated(yaml.safe_load(text))]
    assert len(tasks) > 5
    for task in tasks:
        there = task["delegate_to"].strip("{} ")
        assert f"hostvars[{there}].ansible_host" in (task.get("vars") or {}).get("ansible_host", ""), task["name"]


def commands(found):
    """What commands are given in a YAML value, each as its list of words, whatever these are."""
    if isinstance(found, dict):
        own = [found["argv"]] if isinstance(found.get("argv"), list) else []
        return own + [words for value in found.values() for words in commands(value)]
    return [words for one in found for words in commands(one)] if isinstance(found, list) else []


def test_words_of_commands_are_texts():
    """YAML takes +0 for the number 0, and no for false."""
    texts = [path.read_text() for where in ("playbooks", "roles") for path in (ROOT / where).rglob("*.yml")]
    found = [words for text in texts for words in commands(yaml.safe_load(text))]
    assert len(found) > 20
    assert [words for words in found if not all(isinstance(word, str) for word in words)] == []


def refuses(play):
    """Whether a play does nothing but to look, on all hosts, whether what was asked for can be."""
    tasks = list(flat(play.get("tasks", [])))
    return play["hosts"] == "all" and tasks != [] and all("ansible.builtin.assert" in task for task in tasks)


@pytest.mark.parametrize(("path", "play"), PLAYS, ids=[f"{path.name}-{play['name']}" for path, play in PLAYS])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_hosts_of_a_play_are_groups(name, path, play):
    known = topology(name).groups.keys() | {"localhost"}
    plays = [one for file, one in PLAYS if file == path]
    if play is not plays[0] and "runbooks" in path.parts and refuses(plays[0]):
        # What is only for several hosts of a tier has refused the others, and so who is named when it runs.
        known |= topology("ha").groups.keys()
        asked = re.sub(rf"{{{{ {path.parent.name}_\w+ \| default\('all'\) }}}}", "all", play["hosts"])
    else:
        asked = play["hosts"]
    assert {part.lstrip("!&") for part in re.split("[:,]", asked)} <= known


def test_topologies_have_the_same_groups():
    assert len({frozenset(topology(name).groups) for name in TOPOLOGIES}) == 1


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    pattern = r"(^|[^[:alnum:]_.})-])/" + r"work/"
    command = ["git", "grep", "--untracked", "-nIE", pattern]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1, found.stdout + found.stderr
