"""A rotation of secrets, by its phases: whom applications are in one, the servers of it and of the next one admit."""

import json
import stat
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest

from tests.samples import SECRETS, topology
from tests.topology import ROOT

STATE = ROOT / "playbooks/runbooks/rotate_secrets/state.py"
OLD = {
    f"{kind}_{name}": f"old {kind} {name}"
    for kind, names in {
        "broker_password": ["producer", "service"],
        "database_password": ["producer", "producer_owner", "service", "service_owner"],
        "redis_password": ["producer", "service"],
        "django_secret_key": ["producer", "service"],
    }.items()
    for name in names
}
BEFORE = {
    f"{name}s": {key.removeprefix(f"{name}_"): value for key, value in OLD.items() if key.startswith(f"{name}_")}
    for name in ("broker_password", "database_password", "redis_password", "django_secret_key")
}


def at(phase):
    """A topology in this phase; in the first, 0, a rotation has not begun."""
    if not phase:
        return topology("quintet", **BEFORE)
    return topology("quintet", rotation={"phase": phase, "old": OLD, "authority": 0})


PHASES = {phase: at(phase) for phase in range(4)}


def project(phase, name):
    [found] = [one for one in PHASES[phase].render("web1", "projects") if one["name"] == name]
    return found


def login(phase, name, which):
    """Whom an application is, and by which password, as its URL says."""
    parts = urlsplit(PHASES[phase].render("web1", which, project=project(phase, name)))
    return unquote(parts.username), unquote(parts.password)


def known(phase, which):
    """All whom a tier's servers admit."""
    host, users = {
        "database_url": ("postgresql1", "postgresql_roles"),
        "database_owner_url": ("postgresql1", "postgresql_roles"),
        "broker_url": ("rabbitmq1", "rabbitmq_users"),
        "cache_url": ("redis1", "redis_users"),
    }[which]
    return {
        (user["name"], password)
        for user in PHASES[phase].render(host, users)
        if user.get("state", "present") == "present"
        for password in [user["password"], *user.get("more_passwords", [])]
    }


@pytest.mark.parametrize("which", ["database_url", "database_owner_url", "broker_url", "cache_url"])
@pytest.mark.parametrize("name", ["producer", "service"])
def test_applications_of_a_phase_are_admitted_in_it_and_in_the_next(name, which):
    seen = [login(phase, name, which) for phase in PHASES]
    for phase, one in enumerate(seen):
        for servers in (phase, min(phase + 1, 3)):
            assert one in known(servers, which), f"applications of phase {phase}, servers of phase {servers}"
    # The name is the same in the end, and the password another, which alone is good.
    assert seen[0][0] == seen[3][0]
    assert seen[0] not in known(2, which)
    assert {user for user, _ in known(3, which)} == {user for user, _ in known(0, which)}


def keys(phase, name):
    """What a project signs with, and what it believes besides."""
    values = PHASES[phase].render("web1", "project_environment", project=project(phase, name))
    return values["SECRET_KEY"], set(filter(None, values.get("SECRET_KEY_FALLBACKS", "").split(",")))


@pytest.mark.parametrize("name", ["producer", "service"])
def test_what_is_signed_in_a_phase_is_believed_in_it_and_in_those_beside_it(name):
    seen = [keys(phase, name) for phase in PHASES]
    for phase, (key, _) in enumerate(seen):
        for other in range(max(phase - 1, 0), min(phase + 2, 4)):
            own, believed = seen[other]
            if (phase, other) != (0, 0):
                assert key in {own} | believed, f"signed in phase {phase}, read in phase {other}"
    assert seen[3] == (SECRETS["django_secret_keys"][name], set())


def run(directory, *words):
    subprocess.run([sys.executable, STATE, directory, *words], check=True)


def test_the_state_is_made_once_and_only_goes_on(tmp_path):
    (tmp_path / "one_password").write_text("old\n")
    (tmp_path / "two_password").write_text("stays\n")
    run(tmp_path, "begin", "one_password")
    state = json.loads((tmp_path / "rotation.json").read_text())
    assert (state["phase"], state["old"], state["authority"]) == (1, {"one_password": "old"}, 0)
    new = (tmp_path / "one_password").read_text().strip()
    assert new != "old"
    # Killed before the new one was in its place: that is made good.
    (tmp_path / "one_password").write_text("old\n")
    run(tmp_path, "begin", "one_password", "two_password")
    assert (tmp_path / "one_password").read_text().strip() == new
    assert (tmp_path / "two_password").read_text() == "stays\n"
    run(tmp_path, "phase", "2")
    run(tmp_path, "phase", "1")
    assert json.loads((tmp_path / "rotation.json").read_text())["phase"] == 2
    assert stat.S_IMODE((tmp_path / "rotation.json").stat().st_mode) == 0o600
    run(tmp_path, "end")
    assert not (tmp_path / "rotation.json").exists()
