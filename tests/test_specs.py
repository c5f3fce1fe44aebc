"""A role's specification and its defaults say the same, and so do the settings and the project's file."""

import re

import pytest
import yaml

from tests.samples import role_names
from tests.topology import ROOT

ROLES = role_names()
SETTINGS = "playbooks/vars/settings.yml"
PROJECT = "inventories/group_vars/all/project.yml"
MOST_INPUTS, MOST_FILES, MOST_TASKS = 20, 6, 10


def load(path):
    return yaml.safe_load((ROOT / path).read_text())


def entry_points(role):
    """The entry points of a role, by name."""
    return load(f"roles/{role}/meta/argument_specs.yml")["argument_specs"]


def options(role):
    """The inputs of a role."""
    return entry_points(role)["main"]["options"]


def defaults_text(role):
    return (ROOT / f"roles/{role}/defaults/main.yml").read_text()


def described(found, where=""):
    """All options, those of options too, as (path, option)."""
    for name, option in found.items():
        yield f"{where}{name}", option
        yield from described(option.get("options", {}), f"{where}{name}.")


ALL_OPTIONS = [
    *((role, path, option) for role in ROLES for path, option in described(options(role))),
    *(("settings", path, option) for path, option in described(load(SETTINGS))),
]


@pytest.mark.parametrize("role", ROLES)
def test_role_has_its_files(role):
    for path in ("tasks/main.yml", "defaults/main.yml", "meta/argument_specs.yml"):
        assert (ROOT / "roles" / role / path).is_file(), path


def test_every_folder_in_roles_is_a_role():
    assert sorted(path.name for path in (ROOT / "roles").iterdir()) == ROLES


@pytest.mark.parametrize("role", ROLES)
def test_defaults_are_those_of_the_spec(role):
    assert (load(f"roles/{role}/defaults/main.yml") or {}) == {
        name: option["default"] for name, option in options(role).items() if "default" in option
    }


@pytest.mark.parametrize("role", ROLES)
def test_required_inputs_stand_commented_out_in_the_defaults(role):
    required = {name for name, option in options(role).items() if option.get("required")}
    assert set(re.findall(r"^# (\w+):$", defaults_text(role), re.MULTILINE)) == required


@pytest.mark.parametrize("role", ROLES)
def test_an_input_is_required_or_has_a_default(role):
    unclear = [name for name, option in options(role).items() if option.get("required", False) == ("default" in option)]
    assert not unclear


@pytest.mark.parametrize("role", ROLES)
def test_inputs_begin_with_the_role(role):
    assert not [name for name in options(role) if not name.startswith(f"{role}_")]


@pytest.mark.parametrize("role", ROLES)
def test_entry_points_are_described_and_are_files(role):
    for name, entry in entry_points(role).items():
        assert entry["short_description"]
        assert (ROOT / f"roles/{role}/tasks/{name}.yml").is_file(), name
        assert all(options(role).get(one, given)["type"] == given["type"] for one, given in entry["options"].items())


@pytest.mark.parametrize(("owner", "path", "option"), ALL_OPTIONS, ids=[f"{one[0]}-{one[1]}" for one in ALL_OPTIONS])
def test_option_is_described(owner, path, option):
    assert option.get("description", "").endswith(".")
    assert option.get("type"), "it has no type"
    assert (option["type"] == "list") == ("elements" in option)
    assert not (option.get("required") and "default" in option)
    if path.rpartition(".")[2] == "password":
        assert option.get("no_log"), "it would be shown"


@pytest.mark.parametrize("role", ROLES)
def test_role_is_small(role):
    files = list((ROOT / "roles" / role / "tasks").iterdir())
    assert len(options(role)) <= MOST_INPUTS
    assert len(files) <= MOST_FILES
    for path in files:
        assert 1 <= len(load(path)) <= MOST_TASKS, path.name


def test_settings_are_the_keys_of_the_project():
    assert list(load(SETTINGS)) == list(load(PROJECT))


def test_required_settings_are_given_by_the_project():
    assert all(option.get("required") for option in load(SETTINGS).values())
