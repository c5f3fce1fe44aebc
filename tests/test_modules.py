"""The parts of our modules that decide: no broker and no systemd is needed to know what they would do."""

import importlib.util
import os

import pytest

from tests.topology import ROOT


def module(name):
    """A module of plugins/modules, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"plugins/modules/{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


access = module("rabbitmq_access")
units = module("systemd_units")

SHA256, SHA512 = "rabbit_password_hashing_sha256", "rabbit_password_hashing_sha512"
# The first is the worked example of RabbitMQ's documentation ("Passwords"), salt 908D C60A.
TEST12 = "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
ACCENTS_256 = "AP8QIEzqnHazwFYgSz3Z2T0OLPEfaAPQCt57KluK5CYEaZUr"
ACCENTS_512 = "AP8QIM4epLe0Pu3HIXpuj/NKVvJgjrQUsntHkgzRggrQd1deXPVtlxdBd5Jqw6Xxfj3YNHiSD1SSXYRCxVa/gmrZVH4="


@pytest.mark.parametrize(
    ("password", "password_hash", "algorithm", "matches"),
    [
        ("test12", TEST12, SHA256, True),
        ("ñandú/%:", ACCENTS_256, SHA256, True),
        ("ñandú/%:", ACCENTS_512, SHA512, True),
        ("test13", TEST12, SHA256, False),
        ("", TEST12, SHA256, False),
        ("test12", TEST12, SHA512, False),
        ("test12", TEST12, "rabbit_password_hashing_md5", False),
        ("test12", TEST12, None, False),
        ("test12", "", SHA256, False),
        ("", None, SHA256, False),
    ],
)
def test_password_matches(password, password_hash, algorithm, matches):
    assert access.password_matches(password, password_hash, algorithm) is matches


# As `rabbitmqctl export_definitions` of RabbitMQ 4 writes it; 3 wrote tags as a text, and vhosts without a type.
DEFINITIONS = {
    "users": [
        {"name": "django", "password_hash": TEST12, "hashing_algorithm": SHA256, "tags": ["monitoring", "management"]},
        {"name": "old", "password_hash": TEST12, "hashing_algorithm": SHA256, "tags": "administrator,policymaker"},
        {"name": "bare", "password_hash": "", "hashing_algorithm": None, "tags": ""},
    ],
    "permissions": [
        {"user": "django", "vhost": "rabbit", "configure": "c", "write": "w", "read": "r"},
        {"user": "django", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"},
    ],
    "vhosts": [
        {"name": "rabbit", "default_queue_type": "quorum"},
        {"name": "streams", "metadata": {"default_queue_type": "stream"}},
        {"name": "/", "default_queue_type": "undefined"},
        {"name": "older", "metadata": {}},
    ],
}


def test_observed():
    users, vhosts = access.observed(DEFINITIONS)
    assert users == {
        "django": {
            "tags": ["management", "monitoring"],
            "permissions": {"rabbit": ("c", "w", "r"), "/": (".*", ".*", ".*")},
            "password": (TEST12, SHA256),
        },
        "old": {"tags": ["administrator", "policymaker"], "permissions": {}, "password": (TEST12, SHA256)},
        "bare": {"tags": [], "permissions": {}, "password": ("", None)},
    }
    assert vhosts == {"rabbit": "quorum", "streams": "stream", "/": "classic", "older": "classic"}


def test_the_diff_shows_declared_names_without_their_hashes():
    shown = access.described(*access.observed(DEFINITIONS), {"django", "rabbit"})
    assert shown["users"].keys() == {"django"}
    assert shown["vhosts"] == {"rabbit": {"default_queue_type": "quorum"}}
    assert shown["users"]["django"]["permissions"]["rabbit"] == {"configure": "c", "write": "w", "read": "r"}
    assert TEST12 not in str(shown)


# -- The difference ---------------------------------------------------------------------------------------------------

ALL = {"configure": ".*", "write": ".*", "read": ".*"}


def user(**other):
    """The user that is wanted, which is also the one that is there."""
    wanted = {"name": "django", "password": "test12", "tags": ["management"], "permissions": {"rabbit": ALL}}
    return {**wanted, "state": "present", **other}


def vhost(name="rabbit", kind="quorum", state="present"):
    return {"name": name, "default_queue_type": kind, "state": state}


def there(**other):
    """The user that is there."""
    one = {"tags": ["management"], "permissions": {"rabbit": (".*", ".*", ".*")}, "password": (TEST12, SHA256)}
    return {"django": {**one, **other}}


RABBIT = {"rabbit": "quorum"}
SET_ALL = (["set_permissions", "--vhost", "rabbit", "django", ".*", ".*", ".*"], None)
DIFFERENCES = {
    "an empty broker": (
        ({}, {}, [user()], [vhost()]),
        [
            (["add_vhost", "rabbit", "--default-queue-type", "quorum"], None),
            (["add_user", "django"], "test12"),
            (["set_user_tags", "django", "management"], None),
            SET_ALL,
        ],
    ),
    "a new user without tags or permissions": (
        ({}, {}, [user(tags=[], permissions={})], []),
        [(["add_user", "django"], "test12")],
    ),
    "nothing to do": ((there(), RABBIT, [user()], [vhost()]), []),
    "nothing declared": ((there(), RABBIT, [], []), []),
    "tags in another order": (
        (there(tags=["management", "monitoring"]), RABBIT, [user(tags=["monitoring", "management"])], []),
        [],
    ),
    "a changed password": (
        (there(), RABBIT, [user(password="new")], [vhost()]),
        [(["change_password", "django"], "new")],
    ),
    "a user that had no password": (
        (there(password=("", None)), RABBIT, [user()], []),
        [(["change_password", "django"], "test12")],
    ),
    "a changed tag": (
        (there(tags=["administrator"]), RABBIT, [user()], []),
        [(["set_user_tags", "django", "management"], None)],
    ),
    "tags that go": ((there(), RABBIT, [user(tags=[])], []), [(["set_user_tags", "django"], None)]),
    "a changed permission": ((there(permissions={"rabbit": (".*", "^$", ".*")}), RABBIT, [user()], []), [SET_ALL]),
    "a permission left out permits nothing": (
        (there(), RABBIT, [user(permissions={"rabbit": {"read": ".*"}})], []),
        [(["set_permissions", "--vhost", "rabbit", "django", "^$", "^$", ".*"], None)],
    ),
    "a permission that is not declared goes": (
        (there(permissions={"rabbit": (".*", ".*", ".*"), "/": (".*", ".*", ".*")}), RABBIT, [user()], []),
        [(["clear_permissions", "--vhost", "/", "django"], None)],
    ),
    "an absent user": ((there(), RABBIT, [user(state="absent")], []), [(["delete_user", "django"], None)]),
    "a user that is absent already": (({}, RABBIT, [user(state="absent")], []), []),
    "a changed queue type": (
        ({}, {"rabbit": "classic"}, [], [vhost()]),
        [(["update_vhost_metadata", "rabbit", "--default-queue-type", "quorum"], None)],
    ),
    "an absent vhost": (({}, RABBIT, [], [vhost(state="absent")]), [(["delete_vhost", "rabbit"], None)]),
    "a vhost that is absent already": (({}, {}, [], [vhost(state="absent")]), []),
    "vhosts come before users and go after them": (
        (
            there(permissions={"old": (".*", ".*", ".*")}),
            {"old": "classic"},
            [user(), user(name="guest", state="absent")],
            [vhost("old", state="absent"), vhost()],
        ),
        [
            (["add_vhost", "rabbit", "--default-queue-type", "quorum"], None),
            SET_ALL,
            (["clear_permissions", "--vhost", "old", "django"], None),
            (["delete_vhost", "old"], None),
        ],
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference(name):
    given, commands = DIFFERENCES[name]
    assert access.difference(*given) == commands


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_password_is_never_an_argument(name):
    for arguments, secret in access.difference(*DIFFERENCES[name][0]):
        assert not {"test12", "new"} & set(arguments)
        # rabbitmqctl reads a password only where the user's name is the one argument.
        assert secret is None or (len(arguments) == 2 and arguments[0] in ("add_user", "change_password"))


@pytest.mark.parametrize(
    ("users", "vhosts", "said"),
    [
        ([user()], [vhost()], []),
        ([user(password=None, state="absent")], [], []),
        ([user(password=None)], [], ["users: django needs a password"]),
        ([user(password="")], [], ["users: django needs a password"]),
        ([user(), user(state="absent")], [], ["users: django is declared twice"]),
        ([], [vhost(), vhost(state="absent")], ["vhosts: rabbit is declared twice"]),
        (
            [user(permissions={"rabbit": {"raed": ".*"}})],
            [],
            ["users: django has the permission raed in rabbit; there are only configure, write, read"],
        ),
    ],
)
def test_contradictions(users, vhosts, said):
    assert list(access.contradictions({"users": users, "vhosts": vhosts})) == said


# -- systemd_units ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Thu 1970-01-01 00:00:00.000000 UTC", 0.0),
        ("Fri 2001-09-09 01:46:40.250000 UTC", 1_000_000_000.25),
        ("n/a", 0.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_timestamp(text, seconds):
    assert units.timestamp(text) == seconds


def test_changed_at_is_of_the_newest_file(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for path, time in ((old, 100), (new, 200)):
        path.touch()
        os.utime(path, (time, time))
    assert units.changed_at([old]) == 100
    assert units.changed_at([old, new]) == 200
    assert units.changed_at([old, tmp_path / "missing"]) == 100
    assert units.changed_at([tmp_path / "missing"]) == 0
    assert units.changed_at([]) == 0


def test_changed_at_of_a_link_is_its_own(tmp_path):
    target, link, nowhere = tmp_path / "target", tmp_path / "link", tmp_path / "nowhere"
    target.touch()
    link.symlink_to(target)
    nowhere.symlink_to(tmp_path / "missing")
    os.utime(target, (500, 500))
    for path in (link, nowhere):
        os.utime(path, (300, 300), follow_symlinks=False)
    assert units.changed_at([link]) == 300
    assert units.changed_at([nowhere]) == 300


STARTED, BEFORE, AFTER = 1_000_000_000, 999_999_999, 1_000_000_001
# state of the unit, when it last started, whether it is wanted, when files changed and it reloaded: what is done
NEEDED = {
    "runs": ("enabled", "active", {}, []),
    "is static and runs": ("static", "active", {}, []),
    "has no file state and runs": ("", "active", {}, []),
    "is starting": ("enabled", "activating", {}, []),
    "is reloading": ("enabled", "reloading", {}, []),
    "stopped": ("enabled", "inactive", {}, ["start"]),
    "failed": ("enabled", "failed", {}, ["start"]),
    "is stopping": ("enabled", "deactivating", {}, ["start"]),
    "is not enabled": ("disabled", "active", {}, ["enable"]),
    "is new": ("disabled", "inactive", {}, ["enable", "start"]),
    "read its file": ("enabled", "active", {"restart": BEFORE}, []),
    "did not read its file": ("enabled", "active", {"restart": AFTER}, ["restart"]),
    "stopped, and its file changed": ("enabled", "inactive", {"restart": AFTER}, ["start"]),
    "did not reload its file": ("enabled", "active", {"reload": AFTER}, ["reload"]),
    "reloaded its file": ("enabled", "active", {"reload": AFTER, "reloaded": AFTER + 1}, []),
    "reloaded before its file changed": ("enabled", "active", {"reload": AFTER, "reloaded": BEFORE}, ["reload"]),
    "a reload is no restart": ("enabled", "active", {"restart": AFTER, "reloaded": AFTER + 1}, ["restart"]),
    "a restart is a reload": ("enabled", "active", {"restart": AFTER, "reload": AFTER}, ["restart"]),
    "is not wanted": ("enabled", "active", {"wanted": False}, ["disable", "stop"]),
    "is not wanted and failed": ("enabled", "failed", {"wanted": False}, ["disable"]),
    "is not wanted and disabled": ("disabled", "inactive", {"wanted": False}, []),
    "is not wanted and runs": ("disabled", "active", {"wanted": False}, ["stop"]),
    "is not wanted and masked": ("masked", "inactive", {"wanted": False}, []),
    "is not wanted and not there": ("", "inactive", {"wanted": False, "load": "not-found"}, []),
}


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("kind", ["ExecMainStartTimestamp", "ActiveEnterTimestamp"])
def test_needed(tmp_path, name, kind):
    file_state, active, given, verbs = NEEDED[name]
    unit = {"name": "x.service", "enabled": given.get("wanted", True), "restart_after": [], "reload_after": []}
    for verb in ("restart", "reload"):
        if verb in given:
            (tmp_path / verb).touch()
            os.utime(tmp_path / verb, (given[verb], given[verb]))
            unit[f"{verb}_after"] = [str(tmp_path / verb)]
    state = {
        "LoadState": given.get("load", "loaded"),
        "UnitFileState": file_state,
        "ActiveState": active,
        # A socket has no main process, and a unit whose process is gone says n/a.
        "ExecMainStartTimestamp": "n/a",
        kind: "Sun 2001-09-09 01:46:40.000000 UTC",
    }
    assert units.needed(unit, state, given.get("reloaded", 0)) == verbs
