"""The parts of our modules that decide: no broker and no systemd is needed to know what they would do."""

import base64
import contextlib
import copy
import grp
import hashlib
import hmac
import json
import os
import pwd
import re
import stat
import sys

import pytest
import yaml

from tests.samples import UGLY, argument_spec, module
from tests.topology import ROOT

access = module("rabbitmq_access")
databases = module("postgresql_access")
patroni = module("patroni_cluster")
units = module("systemd_units")


def plain(options):
    """Options without what only the documentation says, or only the code."""
    return {
        name: {key: option[key] for key in ("type", "elements", "required", "default", "choices") if key in option}
        | {"options": plain(option.get("options") or option.get("suboptions") or {})}
        for name, option in options.items()
    }


@pytest.mark.parametrize("name", sorted(path.stem for path in ROOT.glob("plugins/modules/*.py")))
def test_options_are_those_of_the_documentation(name):
    assert plain(argument_spec(name)) == plain(yaml.safe_load(module(name).DOCUMENTATION)["options"])


# -- rabbitmq_access --------------------------------------------------------------------------------------------------

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
    found = access.observed(DEFINITIONS)
    assert {name: user["tags"] for (name,), user in found["users"].items()} == {
        "django": ["management", "monitoring"],
        "old": ["administrator", "policymaker"],
        "bare": [],
    }
    assert found["permissions"].keys() == {("rabbit", "django"), ("/", "django")}
    types = {name: vhost["default_queue_type"] for (name,), vhost in found["vhosts"].items()}
    assert types == {"rabbit": "quorum", "streams": "stream", "/": "classic", "older": "classic"}


def test_the_diff_shows_declared_names_without_their_hashes():
    shown = access.described(access.observed(DEFINITIONS), {"django", "rabbit"})
    assert shown["users"] == {"django": {"tags": ["management", "monitoring"]}}
    assert shown["vhosts"] == {"rabbit": {"default_queue_type": "quorum"}}
    assert shown["permissions"]["django in rabbit"] == {"configure": "c", "write": "w", "read": "r"}
    assert TEST12 not in str(shown)


@pytest.mark.parametrize("password", ["test12", "ñandú/%:", "x" * 300])
def test_a_new_hash_fits_its_password_and_has_a_salt_of_its_own(password):
    hashes = {access.password_hash(password) for _ in range(3)}
    assert len(hashes) == 3
    assert all(access.password_matches(password, one, SHA256) for one in hashes)


# As RabbitMQ 4 writes it.
FLAGS = "[detailed_queues_endpoint,\n khepri_db,\n 'rabbitmq_4.0.0',\n restart_streams].\n"


@pytest.mark.parametrize(
    ("flags", "commands"),
    [
        (["khepri_db", "rabbitmq_4.0.0"], []),
        (["khepri", "rabbitmq_4.1.0", "restart_streams"], ["khepri", "rabbitmq_4.1.0"]),
    ],
)
def test_feature_flags_that_are_not_enabled(tmp_path, flags, commands):
    (tmp_path / "flags").write_text(FLAGS)
    found = access.disabled(flags, tmp_path / "flags")
    assert found == [["enable_feature_flag", "--experimental", flag] for flag in commands]


# -- The difference ---------------------------------------------------------------------------------------------------

ALL = {"configure": ".*", "write": ".*", "read": ".*"}


def user(**other):
    """The user that is wanted, which is also the one that is there."""
    wanted = {"name": "django", "password": "test12", "tags": ["management"], "permissions": {"rabbit": ALL}}
    return {**wanted, "state": "present", **other}


def vhost(name="rabbit", kind="quorum", state="present", dead=""):
    return {
        "name": name,
        "default_queue_type": kind,
        "state": state,
        "dead_letter_queue": dead,
        "delivery_limit": 5,
    }


def broker(grants=None, users=1, vhosts=("rabbit",), kind="quorum", **other):
    """The definitions of a broker with a user, unless told otherwise."""
    one = {"name": "django", "tags": ["management"], "password_hash": TEST12, "hashing_algorithm": SHA256} | other
    grants = {"rabbit": ALL} if grants is None else grants
    return {
        "users": [one] * users,
        "permissions": [{"user": "django", "vhost": name, **grant} for name, grant in grants.items()] * users,
        "vhosts": [{"name": name, "default_queue_type": kind} for name in vhosts],
    }


PARKED = access.dead_letters("parked", 5)
WITH_PARKED = broker() | {kind: [{"vhost": "rabbit", **one}] for kind, one in PARKED.items()}
EMPTY = broker(users=0, vhosts=())
GRANT = "permissions: rabbit django"
DIFFERENCES = {
    "an empty broker": (EMPTY, [user()], [vhost()], ["vhosts: rabbit", "users: django", GRANT]),
    "a new user without tags or permissions": (EMPTY, [user(tags=[], permissions={})], [], ["users: django"]),
    "nothing to do": (broker(), [user()], [vhost()], []),
    "nothing declared": (broker(), [], [], []),
    "tags in another order": (
        broker(tags=["management", "monitoring"]),
        [user(tags=["monitoring", "management"])],
        [],
        [],
    ),
    "a changed password": (broker(), [user(password="new")], [vhost()], ["users: django (password)"]),
    "a user that had no password": (
        broker(password_hash="", hashing_algorithm=None),
        [user()],
        [],
        ["users: django (password)"],
    ),
    "a changed tag": (broker(tags="administrator"), [user()], [], ["users: django (tags)"]),
    "tags that go": (broker(), [user(tags=[])], [], ["users: django (tags)"]),
    "a changed permission": (
        broker({"rabbit": ALL | {"write": "^$"}}),
        [user()],
        [],
        ["permissions: rabbit django (write)"],
    ),
    "a permission left out permits nothing": (
        broker(),
        [user(permissions={"rabbit": {"read": ".*"}})],
        [],
        ["permissions: rabbit django (configure, write)"],
    ),
    "a permission that is not declared goes": (
        broker({"rabbit": ALL, "/": ALL}),
        [user()],
        [],
        ["rabbitmqctl clear_permissions --vhost / django"],
    ),
    "an absent user": (broker(), [user(state="absent")], [], ["rabbitmqctl delete_user django"]),
    "a user that is absent already": (EMPTY, [user(state="absent")], [], []),
    "a changed queue type": (
        broker(kind="classic"),
        [],
        [vhost()],
        ["vhosts: rabbit (default_queue_type)"],
    ),
    "an absent vhost": (broker(), [], [vhost(state="absent")], ["rabbitmqctl delete_vhost rabbit"]),
    "a vhost that is absent already": (EMPTY, [], [vhost(state="absent")], []),
    "a new vhost and one that goes": (
        broker({"old": ALL}, vhosts=("old",)),
        [user(), user(name="guest", state="absent")],
        [vhost("old", state="absent"), vhost()],
        [
            "vhosts: rabbit",
            GRANT,
            "rabbitmqctl clear_permissions --vhost old django",
            "rabbitmqctl delete_vhost old",
        ],
    ),
    "a queue for dead letters": (
        broker(),
        [user()],
        [vhost(dead="parked")],
        [
            "exchanges: rabbit parked",
            "queues: rabbit parked",
            "bindings: rabbit parked parked",
            "policies: rabbit dead-letters",
        ],
    ),
    "a queue for dead letters that is there": (WITH_PARKED, [user()], [vhost(dead="parked")], []),
    "another limit of deliveries": (
        WITH_PARKED,
        [user()],
        [vhost(dead="parked") | {"delivery_limit": 9}],
        ["policies: rabbit dead-letters (definition)"],
    ),
    "dead letters no more": (
        WITH_PARKED,
        [user()],
        [vhost()],
        ["rabbitmqctl clear_policy --vhost rabbit dead-letters"],
    ),
    "the policy of a vhost that is not declared": (WITH_PARKED, [user()], [], []),
}


def test_the_services_of_the_unit_tests_have_the_same_queue_for_dead_letters(quintet):
    definitions = json.loads((ROOT / "tests/services/definitions.json").read_text())
    [vhost] = quintet.render("rabbitmq1", "broker_vhosts")
    wanted = access.dead_letters(vhost["dead_letter_queue"], vhost["delivery_limit"])
    for name in ("rabbit", "producer", "service"):
        for kind, one in wanted.items():
            [there] = [other for other in definitions[kind] if other["vhost"] == name]
            assert there == {"vhost": name, **one} | {key: there[key] for key in ("internal",) if key in there}


def differ(name):
    given, users, vhosts, _ = DIFFERENCES[name]
    found, wanted = access.observed(copy.deepcopy(given)), access.declared(users, vhosts)
    return access.missing(found, wanted), list(access.surplus(found, wanted, users, vhosts))


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference(name):
    assert list(access.told(*differ(name))) == DIFFERENCES[name][-1]


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_is_imported_is_then_there(name):
    given, users, vhosts, _ = copy.deepcopy(DIFFERENCES[name])
    lacks, _ = differ(name)
    found, imported = access.observed(given), access.observed(json.loads(access.document(lacks)))
    found = {
        kind: {key: there | imported[kind].get(key, {}) for key, there in ones.items()} for kind, ones in found.items()
    }
    found = {kind: imported[kind] | ones for kind, ones in found.items()}
    assert access.missing(found, access.declared(users, vhosts)) == {}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_password_is_never_written(name):
    lacks, commands = differ(name)
    for text in (access.document(lacks), *access.told(lacks, commands)):
        assert not {"test12", "new"} & set(re.findall(r"\w+", text))


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
    assert list(access.contradictions({"users": users, "vhosts": vhosts, "feature_flags": []})) == said


def test_feature_flags_need_to_be_found():
    declared = {"users": [], "vhosts": [], "feature_flags": ["khepri_db"], "feature_flags_file": None}
    said = ["feature_flags: feature_flags_file says which are enabled, and is missing"]
    assert list(access.contradictions(declared)) == said


@pytest.mark.parametrize(
    ("found", "users", "vhosts", "said"),
    [
        (EMPTY, [user()], [vhost()], []),
        (broker(), [user()], [], []),
        (EMPTY, [user(state="absent")], [], []),
        (EMPTY, [user()], [], ["users: django has permissions in rabbit, which is no vhost; declare it in vhosts"]),
        (
            broker(),
            [user()],
            [vhost(state="absent")],
            ["users: django has permissions in rabbit, which is no vhost; declare it in vhosts"],
        ),
    ],
)
def test_permissions_in_no_vhost(found, users, vhosts, said):
    found = access.observed(copy.deepcopy(found))
    assert list(access.astray(found, {"users": users, "vhosts": vhosts})) == said


@pytest.mark.parametrize(
    ("name", "commands"),
    [
        (
            "an empty broker",
            [
                "add_vhost rabbit --default-queue-type quorum",
                "add_user django",
                "set_permissions -p rabbit django '.*' '.*' '.*'",
                "set_user_tags django management",
            ],
        ),
        ("a new user without tags or permissions", ["add_user django"]),
        ("a changed password", ["change_password django"]),
        ("tags that go", ["set_user_tags django"]),
        ("a changed queue type", ["update_vhost_metadata rabbit --default-queue-type quorum"]),
        ("a queue for dead letters", []),
        ("nothing to do", []),
    ],
)
def test_the_same_by_hand(name, commands):
    lacks, _ = differ(name)
    found = access.observed(copy.deepcopy(DIFFERENCES[name][0]))
    assert [access.shlex.join(words) for words in access.by_hand(lacks, found)] == commands


# -- postgresql_access ------------------------------------------------------------------------------------------------

# The exchange of RFC 7677: what client and server send prove which keys belong to this password.
PENCIL_SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
NONCE = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
EXCHANGE = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={NONCE}".encode()
CLIENT_PROOF = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
SERVER_SIGNATURE = base64.b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
# As PostgreSQL keeps it.
PENCIL = (
    "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
    "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
)


def test_verifier_is_that_of_the_rfc():
    found = databases.verifier("pencil", PENCIL_SALT)
    assert found == PENCIL
    stored, server = map(base64.b64decode, found.split("$")[2].split(":"))
    assert hmac.digest(server, EXCHANGE, "sha256") == SERVER_SIGNATURE
    signature = hmac.digest(stored, EXCHANGE, "sha256")
    client = bytes(one ^ other for one, other in zip(CLIENT_PROOF, signature, strict=True))
    assert hashlib.sha256(client).digest() == stored


def test_verifier_has_a_new_salt_each_time():
    one, two = databases.verifier("pencil"), databases.verifier("pencil")
    assert one != two
    assert len(base64.b64decode(one.split("$")[1].split(":")[1])) == 16
    assert databases.password_matches("pencil", one)
    assert databases.password_matches("pencil", two)


def test_verifier_normalizes_as_clients_do():
    assert databases.verifier("\u00aa\u2168", PENCIL_SALT) == databases.verifier("aIX", PENCIL_SALT)


@pytest.mark.parametrize(
    ("password", "found", "matches"),
    [
        ("pencil", PENCIL, True),
        ("pencil", databases.verifier("pencil", b"another salt", 5000), True),
        (UGLY, databases.verifier(UGLY), True),
        ("pencil ", PENCIL, False),
        ("", PENCIL, False),
        (PENCIL, PENCIL, False),
        ("pencil", PENCIL.replace("$4096:", "$4095:"), False),
        ("pencil", PENCIL.replace(":wfPL", ":wfPM"), False),
        ("pencil", "md5" + hashlib.md5(b"penciluser").hexdigest(), False),
        ("pencil", "pencil", False),
        ("pencil", "", False),
        ("pencil", None, False),
    ],
)
def test_password_of_a_role_matches(password, found, matches):
    assert databases.password_matches(password, found) is matches


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("producer", '"producer"'), ("My App", '"My App"'), ('a"; DROP', '"a""; DROP"'), ('""', '""""""')],
)
def test_identifier(name, quoted):
    assert databases.identifier(name) == quoted


def server(role=None, database=None, **names):
    """The state of a server on which all is as wanted, but for this."""
    known = {"password": PENCIL, "login": True, "more": False, "member_of": []}
    return {
        "follows": False,
        "roles": {
            "postgres": {"password": None, "login": True, "more": True, "member_of": []},
            "app_owner": known,
            "app": known | (role or {}),
        },
        "databases": {
            "postgres": {"owner": "postgres", "public": True, "users": []},
            "app": {"owner": "app_owner", "public": False, "users": ["app_owner", "app"]} | (database or {}),
        },
    } | names


def inside(granted=True, schemas=("public",)):
    """What is in the database `app`."""
    return {"app": {"granted": granted, "schemas": list(schemas)}}


ROLES = [{"name": name, "password": "pencil", "member_of": []} for name in ("app_owner", "app")]
APP = {"name": "app", "owner": "app_owner", "user": "app"}
STAND_IN = {"name": "app-next", "password": "pencil", "member_of": [], "acts_as": "app"}


def with_stand_in():
    found = server()
    found["roles"]["app-next"] = found["roles"]["app"] | {"member_of": ["app"], "settings": ["role=app"]}
    return found


OWN = {"name": "app", "owner": "app", "user": "app"}
ONLY = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
NEW = 'CREATE DATABASE "app" OWNER "{}" ENCODING \'UTF8\' TEMPLATE template0'
REVOKE = 'REVOKE ALL ON DATABASE "app" FROM PUBLIC'
CONNECT = 'GRANT CONNECT, TEMPORARY ON DATABASE "app" TO "app"'
LATER = 'ALTER DEFAULT PRIVILEGES FOR ROLE "app_owner" GRANT'
GRANTS = [
    'REVOKE CREATE ON SCHEMA "public" FROM PUBLIC, "app"',
    'GRANT USAGE ON SCHEMA "public" TO "app"',
    'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "public" TO "app"',
    'GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA "public" TO "app"',
    f'{LATER} USAGE ON SCHEMAS TO "app"',
    f'{LATER} SELECT, INSERT, UPDATE, DELETE ON TABLES TO "app"',
    f'{LATER} SELECT, USAGE ON SEQUENCES TO "app"',
]


def within(*statements):
    """All of them or none, in the database."""
    return ['\\connect "app"', "BEGIN", *statements, "COMMIT"]


# state, what is in the database, the roles, the database: the statements; `...` for a secret that completes one
STATEMENTS = {
    "nothing to do": (server(), inside(), ROLES, APP, []),
    "an empty server": (
        {"roles": {}, "databases": {}}, {}, ROLES, APP,
        [
            f'CREATE ROLE "app_owner" {ONLY} PASSWORD ...', f'CREATE ROLE "app" {ONLY} PASSWORD ...',
            NEW.format("app_owner"), *within(REVOKE, CONNECT, *GRANTS),
        ],
    ),
    "an owner who works in it": (
        {"roles": {}, "databases": {}}, {}, ROLES[1:], OWN,
        [f'CREATE ROLE "app" {ONLY} PASSWORD ...', NEW.format("app"), *within(REVOKE)],
    ),
    "roles without their database": (
        server(databases={}), {}, ROLES, APP, [NEW.format("app_owner"), *within(REVOKE, CONNECT, *GRANTS)],
    ),
    "another owner": (
        server(database={"owner": "app"}), inside(granted=False), ROLES, APP,
        within(
            'ALTER DATABASE "app" OWNER TO "app_owner"', 'REASSIGN OWNED BY "app" TO "app_owner"', CONNECT, *GRANTS
        ),
    ),
    "the user is to be the owner": (
        server(), {}, ROLES[1:], OWN,
        within('ALTER DATABASE "app" OWNER TO "app"', 'REASSIGN OWNED BY "app_owner" TO "app"'),
    ),
    "the system's user was the owner": (
        server(database={"owner": "postgres"}), inside(), ROLES, APP,
        within('ALTER DATABASE "app" OWNER TO "app_owner"', CONNECT, *GRANTS),
    ),
    "rights are missing": (server(), inside(granted=False), ROLES, APP, within(*GRANTS)),
    "rights in more schemas": (
        server(), inside(False, ("a", "public")), ROLES, APP,
        within(*(text.replace('SCHEMA "public"', 'SCHEMA "a", "public"') for text in GRANTS)),
    ),
    "may not connect": (server(database={"users": []}), inside(), ROLES, APP, within(CONNECT)),
    "everybody may connect": (server(database={"public": True}), inside(), ROLES, APP, within(REVOKE)),
    "a changed password": (
        server(), inside(), [ROLES[0], ROLES[1] | {"password": "pen"}], APP, ['ALTER ROLE "app" PASSWORD ...'],
    ),
    "no password": (server({"password": None}), inside(), ROLES, APP, ['ALTER ROLE "app" PASSWORD ...']),
    "more attributes": (server({"more": True}), inside(), ROLES, APP, [f'ALTER ROLE "app" {ONLY}']),
    "no login": (server({"login": False}), inside(), ROLES, APP, [f'ALTER ROLE "app" {ONLY}']),
    "a member": (
        server(), inside(), [*ROLES, {"name": "watch", "password": "pencil", "member_of": ["pg_monitor"]}], APP,
        [f'CREATE ROLE "watch" {ONLY} PASSWORD ...', 'GRANT "pg_monitor" TO "watch"'],
    ),
    "a member already": (
        server({"member_of": ["pg_monitor"]}), inside(),
        [ROLES[0], ROLES[1] | {"member_of": ["pg_monitor", 'a"b']}], APP, ['GRANT "a""b" TO "app"'],
    ),
    "a stand-in": (
        server(), inside(), [*ROLES, STAND_IN], APP,
        [
            f'CREATE ROLE "app-next" {ONLY} PASSWORD ...', 'GRANT "app" TO "app-next"',
            'ALTER ROLE "app-next" SET role TO "app"',
        ],
    ),
    "a stand-in already": (
        with_stand_in(), inside(), [*ROLES, STAND_IN], APP, [],
    ),
    "a stand-in that goes": (
        with_stand_in(), inside(), [*ROLES, STAND_IN | {"state": "absent"}], APP, ['DROP ROLE "app-next"'],
    ),
    "a stand-in that is gone": (server(), inside(), [*ROLES, STAND_IN | {"state": "absent"}], APP, []),
}  # fmt: skip


@pytest.mark.parametrize("name", STATEMENTS)
def test_statements(name):
    state, known, roles, database, statements = STATEMENTS[name]
    found = databases.difference(state, known, roles, [database])
    assert [f"{statement} ..." if secret else statement for statement, secret in found] == statements
    passwords = {role["password"] for role in roles}
    for statement, secret in found:
        # The statement is shown; its secret is the verifier of a password that is wanted, which a quote cannot end.
        assert "SCRAM" not in statement
        assert "pen" not in statement
        if secret:
            assert any(databases.password_matches(password, secret) for password in passwords)
            assert "'" not in secret


def test_only_databases_with_a_user_are_looked_into():
    missing = {"name": "new", "owner": "new_owner", "user": "new"}
    assert databases.questions(server(), [OWN, missing]) == ""
    asked = databases.questions(server(), [APP, missing])
    assert asked.startswith('\\connect "app"\nWITH ')
    assert asked.count("\\connect") == 1
    assert "has_table_privilege('app', oid, 'INSERT')" in asked
    # A role that is not there yet has no rights, and no name that PostgreSQL would know.
    assert "has_table_privilege" not in databases.questions(server(roles={}), [APP])
    ugly = {"name": "app", "owner": "o'o", "user": "app"}
    assert "('o''o')::regrole" in databases.questions(server(roles={"o'o": {}, "app": {}}), [ugly])


class Stop(Exception):
    """The end of a module: with what it says."""


class Psql:
    """Stands for AnsibleModule: a server in this state, and what is sent to it."""

    def __init__(self, monkeypatch, state, check_mode=False, code=0):
        self.state, self.check_mode, self.code, self.commands, self.sent = state, check_mode, code, [], []
        roles = [ROLES[0], ROLES[1] | {"password": "pen'cil"}]
        self.params = {"port": 5433, "roles": roles, "databases": [APP]}
        monkeypatch.setattr(databases, "AnsibleModule", lambda **_: self)

    def run_command(self, command, data):
        self.commands.append(command)
        self.sent.append(data)
        answer = inside()["app"] | {"name": "app"} if data.startswith("\\connect") else self.state
        return self.code, json.dumps(answer), "no server\n"

    def stop(self, **said):
        raise Stop(said)

    exit_json = fail_json = stop

    def run(self):
        with pytest.raises(Stop) as stopped:
            databases.main()
        return stopped.value.args[0]


def test_databases_are_given_what_is_missing_and_no_secret_is_shown(monkeypatch):
    psql = Psql(monkeypatch, server(database={"public": True}))
    said = psql.run()
    assert said["changed"] is True
    assert said["statements"] == ['ALTER ROLE "app" PASSWORD', *within(REVOKE)]
    assert said["diff"] == {"before": "", "after": "\n".join(said["statements"]) + "\n"}
    assert "SCRAM" not in str(said)
    password, *rest = psql.sent[2].splitlines()
    assert password.startswith('ALTER ROLE "app" PASSWORD \'SCRAM-SHA-256$4096:')
    assert databases.password_matches("pen'cil", password.split("'")[1])
    assert password.endswith("';")
    assert rest == ['\\connect "app"', "BEGIN;", f"{REVOKE};", "COMMIT;"]
    for command in psql.commands:
        assert command[-3:] == ["--port", "5433", "postgres"]
        assert "ON_ERROR_STOP=1" in command


@pytest.mark.parametrize(
    ("state", "check_mode", "changed"),
    [(server({"password": databases.verifier("pen'cil")}), False, False), (server(), True, True)],
    ids=["nothing to do", "check mode"],
)
def test_databases_are_only_looked_at(monkeypatch, state, check_mode, changed):
    psql = Psql(monkeypatch, state, check_mode)
    said = psql.run()
    assert (said["changed"], bool(said["diff"]), bool(said["statements"])) == (changed, changed, changed)
    assert psql.sent == [databases.STATE, databases.questions(state, [APP])]


def test_a_server_that_does_not_answer_is_said(monkeypatch):
    assert Psql(monkeypatch, {}, code=2).run() == {"msg": "psql: no server"}


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


TIMES = {
    "/etc/systemd/system/x.service": AFTER,
    "/etc/systemd/system/old.service": BEFORE,
    "/etc/x.conf": AFTER,
    "/opt/etc/systemd/x.service": AFTER,
}
# whether systemd says so, state of the unit, files: whether it may be outdated
OUTDATED = {
    "nothing changed": ("no", "active", ["/etc/systemd/system/old.service"], False),
    "systemd says so": ("yes", "active", [], True),
    "ours stands in front of the distribution's": ("no", "active", ["/etc/systemd/system/x.service"], True),
    "ours is one of several files": ("no", "active", ["/etc/x.conf", "/etc/systemd/system/x.service"], True),
    "its configuration changed": ("no", "active", ["/etc/x.conf", "/etc/systemd/system/old.service"], False),
    "a file that is no unit's": ("no", "active", ["/opt/etc/systemd/x.service"], False),
    "the distribution's, stopped": ("no", "inactive", ["/etc/x.conf"], False),
    "ours, stopped": ("no", "inactive", ["/etc/systemd/system/old.service"], True),
}


@pytest.mark.parametrize("name", OUTDATED)
def test_outdated(monkeypatch, name):
    says, active, paths, expected = OUTDATED[name]
    monkeypatch.setattr(units, "changed_at", lambda paths: max((TIMES[path] for path in paths), default=0.0))
    unit = {"name": "x.service", "enabled": True, "restart_after": paths, "reload_after": ["/etc/x.conf"]}
    state = {
        **{"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": active, "NeedDaemonReload": says},
        "ExecMainStartTimestamp": "Sun 2001-09-09 01:46:40.000000 UTC",
    }
    assert units.outdated(unit, state) is expected


def test_units_are_brought_up_together(monkeypatch):
    """One call for each verb, in an order in which what stops makes room for what starts."""
    active = {"old": "active", "one": "inactive", "two": "inactive", "same": "active"}
    told = []

    def systemctl(*words):
        told.append(words)
        return "\n\n".join(
            f"LoadState=loaded\nUnitFileState={'enabled' if active[name] == 'active' else 'disabled'}\n"
            f"ActiveState={active[name]}\nNeedDaemonReload=no\n"
            "ExecMainStartTimestamp=Sun 2001-09-09 01:46:40.000000 UTC"
            for name in words[3:]
        )

    one = host()
    monkeypatch.setattr(one, "systemctl", systemctl)
    files = {"restart_after": [], "reload_after": [], "before_restart": ["false"]}
    one.bring([{"name": name, "enabled": name != "old", **files} for name in ("one", "old", "same", "two")])
    assert told[1:] == [("disable", "old"), ("stop", "old"), ("enable", "one", "two"), ("start", "one", "two")]
    assert one.actions == ["disable old", "stop old", "enable one", "enable two", "start one", "start two"]


# Of a unit that is starting: whether it is wanted, after what of a file that is newer, and what is told then.
STARTING = {
    "it is waited for": (True, "", ["start"]),
    "before it reloads": (True, "reload", ["start", "reload"]),
    "not if it is to restart": (True, "restart", ["restart"]),
    "not if it is to stop": (False, "", ["disable", "stop"]),
}


@pytest.mark.parametrize("name", STARTING)
def test_what_somebody_else_starts_is_waited_for(monkeypatch, tmp_path, name):
    """A run that was killed has begun it. To wait is no change."""
    enabled, after, verbs = STARTING[name]
    told, conf = [], tmp_path / "x.conf"
    conf.touch()
    os.utime(conf, (AFTER, AFTER))
    state = {
        **{"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "activating", "NeedDaemonReload": "no"},
        "ExecMainStartTimestamp": "Sun 2001-09-09 01:46:40.000000 UTC",
    }
    one = host()
    monkeypatch.setattr(units, "RELOADS", str(tmp_path / "reloads"))
    monkeypatch.setattr(one, "states", lambda names: dict.fromkeys(names, state))
    monkeypatch.setattr(one, "systemctl", lambda *words: told.append(words))
    files = {f"{verb}_after": [str(conf)] if verb == after else [] for verb in ("restart", "reload")}
    one.bring([{"name": "x.service", "enabled": enabled, "before_restart": []} | files])
    assert told == [(verb, "x.service") for verb in verbs]
    assert one.actions == [f"{verb} x.service" for verb in verbs if verb != "start"]


@pytest.mark.parametrize(("paused", "verbs"), [(True, ["disable", "stop"]), (False, [])])
def test_a_unit_that_is_paused_is_stopped_with_a_warning(monkeypatch, tmp_path, paused, verbs):
    told, warnings = [], []
    state = {
        **{"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "active", "NeedDaemonReload": "no"},
        "ExecMainStartTimestamp": "Sun 2001-09-09 01:46:40.000000 UTC",
    }
    if paused:
        (tmp_path / "x.service").touch()
    one = host()
    one.module.warn = warnings.append
    monkeypatch.setattr(units, "PAUSED", str(tmp_path))
    monkeypatch.setattr(one, "states", lambda names: dict.fromkeys(names, state))
    monkeypatch.setattr(one, "systemctl", lambda *words: told.append(words))
    one.bring([{"name": "x.service", "enabled": True, "restart_after": [], "reload_after": [], "before_restart": []}])
    assert told == [(verb, "x.service") for verb in verbs]
    assert ["x.service" in warning for warning in warnings] == [True] * paused


@pytest.mark.parametrize("verb", ["start", "restart"])
@pytest.mark.parametrize(
    ("state", "codes", "starts", "fails"),
    [
        ("auto-restart", {}, 1, False),
        ("auto-restart-queued", {}, 1, False),
        ("auto-restart", {"start": 1}, 1, True),
        ("failed", {}, 0, True),
    ],
)
def test_what_systemd_would_start_again_is_started_once_more(verb, state, codes, starts, fails):
    """A node of RabbitMQ's that joins a cluster may fail its first start, and only that."""
    told = []

    def run_command(words):
        told.append(words[1])
        code = 1 if len(told) == 1 else codes.get(words[1], 0)
        return code, state if words[1] == "show" else "", f"{words[1]} failed"

    one = host()
    one.module.run_command = run_command
    with pytest.raises(Stop, match=f"systemctl {verb} x.service: ") if fails else contextlib.nullcontext():
        one.systemctl(verb, "x.service")
    assert told[1:2] == ["show"]
    assert told[2:].count("start") == starts


@pytest.mark.parametrize(("code", "verbs"), [(0, [("restart", "x.service")]), (1, [])])
def test_a_restart_waits_for_its_command(monkeypatch, tmp_path, code, verbs):
    """Whoever else must do the unit's work meanwhile is not ready yet: then it goes on."""
    told, ran = [], []
    (tmp_path / "x.conf").touch()
    state = {
        **{"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "active", "NeedDaemonReload": "no"},
        "ExecMainStartTimestamp": "Sun 2001-09-09 01:46:40.000000 UTC",
    }
    one = host()
    one.module.run_command = lambda command: ran.append(command) or (code, "", "not now")
    monkeypatch.setattr(one, "states", lambda names: dict.fromkeys(names, state))
    monkeypatch.setattr(one, "systemctl", lambda *words: told.append(words))
    unit = {"name": "x.service", "enabled": True, "reload_after": [], "before_restart": ["await", "others"]}
    with pytest.raises(Stop, match="not restarted: await others: not now") if code else contextlib.nullcontext():
        one.bring([unit | {"restart_after": [str(tmp_path / "x.conf")]}])
    assert (ran, told) == ([["await", "others"]], verbs)


# -- The files of systemd_units ---------------------------------------------------------------------------------------

IDS = (os.getuid(), os.getgid())
WHO = {"owner": pwd.getpwuid(IDS[0]).pw_name, "group": grp.getgrgid(IDS[1]).gr_name}


def file(path, **what):
    """One of the option `files`, as Ansible completes it."""
    spec = argument_spec("systemd_units")["files"]["options"]
    return {name: option.get("default") for name, option in spec.items()} | WHO | {"path": str(path), **what}


def host(check_mode=False):
    """The module's host; it may only write files, or fail."""

    def fail_json(**given):
        raise Stop(given["msg"])

    return units.Host(type("Module", (), {"check_mode": check_mode, "fail_json": staticmethod(fail_json)}))


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def aged(path):
    """The same file or link, changed long ago: a path that is written has a new time."""
    os.utime(path, (BEFORE, BEFORE), follow_symlinks=False)
    return path


@pytest.fixture
def umask():
    """Set the umask, until the end of the test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@contextlib.contextmanager
def at_each_line(look):
    """Look at each line of Python that is run: at what another process could see in between."""
    before = sys.gettrace()

    def trace(*_):
        look()
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def test_observed_path(tmp_path):
    (tmp_path / "file").write_bytes(b"\xf1\r\n\xff")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "nowhere").symlink_to("no such")
    content = b"\xf1\r\n\xff".decode(errors="surrogateescape")
    assert units.observed(tmp_path / "file") == {"content": content, "ids": IDS, "mode": 0o640}
    assert units.observed(tmp_path / "link") == {"link": "file"}
    assert units.observed(tmp_path / "nowhere") == {"link": "no such"}
    assert units.observed(tmp_path / "no such") is None


WANTED = {
    "content": ({"content": "x"}, {"content": "x", "ids": IDS, "mode": 0o644}),
    "an empty content": ({"content": "", "mode": "0755"}, {"content": "", "ids": IDS, "mode": 0o755}),
    "secret": ({"secret": "x", "mode": "0600"}, {"content": "x", "ids": IDS, "mode": 0o600}),
    "link": ({"link": "releases/1"}, {"link": "releases/1"}),
    "absent": ({"absent": True}, None),
}


@pytest.mark.parametrize("name", WANTED)
def test_wanted(name):
    what, expected = WANTED[name]
    assert units.wanted(file("/x", **what)) == expected


def test_wanted_of_an_owner_who_does_not_exist():
    with pytest.raises(KeyError, match="no-such-user"):
        units.wanted(file("/x", content="x", owner="no-such-user"))


@pytest.mark.parametrize("name", WANTED)
@pytest.mark.parametrize("there", ["nothing", "file", "link"])
def test_written_once(tmp_path, name, there):
    what, expected = WANTED[name]
    path = tmp_path / "file"
    if there == "file":
        path.write_text("other")
    if there == "link":
        path.symlink_to("other")
    first, second = host(), host()
    first.write(file(path, **what))
    assert units.observed(path) == expected
    assert os.listdir(tmp_path) == (["file"] if expected else []), "its work is left behind"
    nothing = there == "nothing" and expected is None
    assert first.actions == ([] if nothing else [f"{'write' if expected else 'remove'} {path}"])
    if expected:
        aged(path)
    second.write(file(path, **what))
    assert (second.actions, second.diffs) == ([], [])
    if expected:
        assert os.lstat(path).st_mtime == BEFORE


@pytest.mark.parametrize(
    "content", [UGLY, "a\r\nb\rc\n", "{{ x }}\n", ""], ids=["ugly", "line ends", "braces", "empty"]
)
def test_content_is_kept_as_it_is(tmp_path, content):
    host().write(file(tmp_path / "x", content=content))
    assert (tmp_path / "x").read_bytes() == content.encode()
    second = host()
    second.write(file(tmp_path / "x", content=content))
    assert second.actions == []


def test_content_that_differs_is_new_for_its_readers_and_shown(tmp_path):
    path = tmp_path / "x"
    path.write_text("old\n")
    aged(path)
    one = host()
    one.write(file(path, content="new\n"))
    assert path.stat().st_mtime > AFTER
    header = {"before_header": str(path), "after_header": str(path)}
    assert one.diffs == [{**header, "before": "old\n", "after": "new\n"}]


@pytest.mark.parametrize("kind", ["content", "secret"])
def test_another_mode_is_no_change_for_its_readers(tmp_path, kind):
    path = tmp_path / "x"
    path.write_text("same\n")
    path.chmod(0o644)
    inode = aged(path).stat().st_ino
    one = host()
    one.write(file(path, mode="0600", **{kind: "same\n"}))
    assert one.actions == [f"write {path}"]
    assert (mode(path), path.stat().st_mtime, path.stat().st_ino) == (0o600, BEFORE, inode)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_and_group_are_set_with_the_content_or_without(tmp_path):
    path, given = tmp_path / "x", file(tmp_path / "x", content="x", owner="daemon", group="daemon")
    ids = (pwd.getpwnam("daemon").pw_uid, grp.getgrnam("daemon").gr_gid)
    host().write(given)
    assert (path.stat().st_uid, path.stat().st_gid) == ids
    os.chown(path, 0, 0)
    aged(path)
    host().write(given)
    assert (path.stat().st_uid, path.stat().st_gid, path.stat().st_mtime) == (*ids, BEFORE)


@pytest.mark.parametrize(
    ("before", "what", "seen"),
    [
        ({"link": "releases/1"}, {"link": "releases/2"}, [{"link": "releases/1"}, {"link": "releases/2"}]),
        (
            {"content": "old\n" * 9999},
            {"content": "new\n" * 9999},
            [{"content": word * 9999, "ids": IDS, "mode": 0o644} for word in ("old\n", "new\n")],
        ),
        (
            {"content": "x"},
            {"link": "releases/1"},
            [{"content": "x", "ids": IDS, "mode": 0o644}, {"link": "releases/1"}],
        ),
    ],
    ids=["link", "file", "link for a file"],
)
def test_nobody_sees_half_of_it(tmp_path, before, what, seen):
    path, states = tmp_path / "x", []
    host().write(file(path, **before))
    with at_each_line(lambda: states.append(units.observed(path))):
        host().write(file(path, **what))
    assert [state for state, next_state in zip(states, [*states[1:], None], strict=True) if state != next_state] == seen


def test_what_its_reader_does_not_take_is_not_written(tmp_path):
    """And nothing of it is left, nor said to be done."""
    (tmp_path / "x").write_text("old")
    one = host()
    seen = []
    one.module.run_command = lambda command: seen.append(command) or (1, "", f"{command[-1]}:1: no")
    with pytest.raises(Stop, match=f"{tmp_path}/x is left as it was: {tmp_path}/x:1: no"):
        one.write(file(tmp_path / "x", content="new", accept=["check", "--file"]))
    assert [command[:2] for command in seen] == [["check", "--file"]]
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"
    assert one.actions == []
    one.module.run_command = lambda command: (0, "", "")
    one.write(file(tmp_path / "x", content="new", accept=["check", "--file"]))
    assert (tmp_path / "x").read_text() == "new"


def test_a_secret_never_has_a_wider_mode(tmp_path, umask):
    path, modes = tmp_path / "x", []
    umask(0)
    with at_each_line(lambda: modes.extend(mode(one.path) for one in os.scandir(tmp_path))):
        host().write(file(path, secret="secret", mode="0400"))
    assert path.read_text() == "secret"
    assert set(modes) == {0o600, 0o400}


def test_a_secret_is_not_shown(tmp_path):
    (tmp_path / "x").write_text("old secret")
    one = host()
    one.write(file(tmp_path / "x", secret="new secret"))
    one.write(file(tmp_path / "y", secret="new secret"))
    assert one.actions == [f"write {tmp_path / 'x'}", f"write {tmp_path / 'y'}"]
    assert one.diffs == []
    assert argument_spec("systemd_units")["files"]["options"]["secret"]["no_log"] is True


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_missing_directories_are_made(tmp_path, umask, mask):
    umask(mask)
    host().write(file(tmp_path / "a/b/c/x", content="x"))
    assert (tmp_path / "a/b/c/x").read_text() == "x"
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/c", "a/b/c/x")] == [0o755, 0o755, 0o755, 0o644]


def test_directories_that_are_there_stay_as_they_are(tmp_path):
    (tmp_path / "a").mkdir(mode=0o700)
    host().write(file(tmp_path / "a/b/x", link="y"))
    assert [mode(tmp_path / name) for name in ("a", "a/b")] == [0o700, 0o755]


@pytest.mark.parametrize("name", WANTED)
def test_check_mode_writes_nothing(tmp_path, name):
    what, expected = WANTED[name]
    path = tmp_path / "there"
    path.write_text("old")
    before = os.lstat(aged(path))
    one = host(check_mode=True)
    one.write(file(path, **what))
    one.write(file(tmp_path / "a/b", **what))
    assert one.actions == (
        [f"write {path}", f"write {tmp_path / 'a/b'}"] if expected is not None else [f"remove {path}"]
    )
    assert len(one.diffs) == (0 if "secret" in what else len(one.actions))
    after = os.lstat(path)
    assert os.listdir(tmp_path) == ["there"]
    assert path.read_text() == "old"
    assert (after.st_mtime, after.st_ino, after.st_mode) == (before.st_mtime, before.st_ino, before.st_mode)


def test_check_mode_sets_no_mode(tmp_path):
    (tmp_path / "x").write_text("x")
    (tmp_path / "x").chmod(0o600)
    one = host(check_mode=True)
    one.write(file(tmp_path / "x", content="x"))
    assert one.actions == [f"write {tmp_path / 'x'}"]
    assert mode(tmp_path / "x") == 0o600


def test_exactly_one_of_the_options_says_what_a_file_is():
    given = argument_spec("systemd_units")["files"]
    kinds = [("content", "secret", "copy", "link", "absent")]
    assert given["mutually_exclusive"] == given["required_one_of"] == kinds


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_copy_equals_the_other_file_and_is_not_shown(tmp_path, check_mode):
    (tmp_path / "next").write_text("KEY=geheim\n")
    (tmp_path / "next").chmod(0o600)
    one = host(check_mode)
    for _ in range(2):
        one.write(file(tmp_path / "now", copy=str(tmp_path / "next")))
    if check_mode:
        assert not (tmp_path / "now").exists()
    else:
        assert one.actions == [f"write {tmp_path / 'now'}"]
        assert ((tmp_path / "now").read_text(), mode(tmp_path / "now")) == ("KEY=geheim\n", 0o600)
    assert not one.diffs


def test_a_copy_of_nothing_is_refused_and_what_is_there_stays(tmp_path):
    (tmp_path / "now").write_text("old")
    one = host()
    with pytest.raises(Stop, match=f"There is no {tmp_path}/next"):
        one.write(file(tmp_path / "now", copy=str(tmp_path / "next")))
    assert (tmp_path / "now").read_text() == "old"


# -- Unit files that nobody wants any more ----------------------------------------------------------------------------

UNIT_FILES = {
    "gunicorn-old.service": "[Unit]\nX-Quintet=web\n",
    "gunicorn-old.socket": "[Unit]\nX-Quintet=web\n",
    "gunicorn-new.service": "[Unit]\nX-Quintet=web\n",
    "celery-old.service": "[Unit]\nX-Quintet=worker\n",
    "theirs.service": "[Unit]\nDescription=X-Quintet=web\n",
}


@pytest.fixture
def unit_files(monkeypatch, tmp_path):
    """A directory of unit files; one is a link, and one is in a directory of drop-ins."""
    monkeypatch.setattr(units, "UNITS", str(tmp_path))
    for name, text in UNIT_FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "linked.service").symlink_to("gunicorn-old.service")
    (tmp_path / "multi-user.target.wants").mkdir()
    return tmp_path


def test_leftovers_are_an_owners_alone_and_a_socket_comes_before_its_service(unit_files):
    wanted = [file(unit_files / "gunicorn-new.service", content="x")]
    assert units.leftovers("web", wanted) == ["gunicorn-old.socket", "gunicorn-old.service"]
    assert units.leftovers("worker", wanted) == ["celery-old.service"]
    assert units.leftovers("nobody", wanted) == []


@pytest.mark.parametrize("check_mode", [False, True])
def test_leftovers_are_stopped_before_their_files_go(unit_files, monkeypatch, check_mode):
    one, told = host(check_mode=check_mode), []
    monkeypatch.setattr(one, "systemctl", lambda *words: told.append((*words, (unit_files / words[-1]).exists())))
    one.remove(["gunicorn-old.service"])
    assert one.actions == ["remove gunicorn-old.service"]
    assert told == (
        [] if check_mode else [("disable", "--now", "gunicorn-old.service", True), ("daemon-reload", False)]
    )
    assert (unit_files / "gunicorn-old.service").exists() is check_mode


# -- patroni_cluster --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted", "patch"),
    [
        ({"ttl": 20}, {"ttl": 20}, {}),
        ({"ttl": 30}, {"ttl": 20}, {"ttl": 20}),
        ({}, {"ttl": 20, "a": {"b": {"c": 1}}}, {"ttl": 20, "a": {"b": {"c": 1}}}),
        # What an operator has set, such as a pause, is his.
        ({"ttl": 20, "pause": True, "a": {"x": 1}}, {"ttl": 20, "a": {}}, {}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 1}}}, {"a": {"b": {"d": None}}}),
        ({"a": {"b": {"c": 1, "d": 2}}}, {"a": {"b": {"c": 3}}}, {"a": {"b": {"c": 3, "d": None}}}),
        ({"b": {"c": 1}, "x": {"b": {"c": 1}}}, {"b": {}, "x": {"b": {}}}, {}),
        ({"a": {"b": None, "c": 1}}, {"a": {"b": {"d": 1}}}, {"a": {"b": {"d": 1}}}),
    ],
)
def test_difference_of_settings(found, wanted, patch):
    assert patroni.difference(found, wanted, ("a", "b")) == patch


LEADER = {"name": "b", "role": "leader", "state": "running"}
FOLLOWER = {"name": "c", "role": "quorum_standby", "state": "streaming"}
OTHER = {"name": "a", "role": "replica", "state": "streaming"}
LEADS = {"state": "running", "role": "primary"}
FOLLOWS = {"state": "running", "role": "replica", "replication_state": "streaming"}


@pytest.mark.parametrize(
    ("member", "members", "strict", "said"),
    [
        (LEADS, [LEADER, FOLLOWER], True, ""),
        (FOLLOWS, [LEADER, FOLLOWER], True, ""),
        (FOLLOWS, [LEADER, FOLLOWER | {"role": "sync_standby"}], True, ""),
        (LEADS, [LEADER], False, ""),
        (LEADS, [LEADER, OTHER], True, "No other member has what the leader has, so that nothing can be written."),
        (FOLLOWS, [FOLLOWER, OTHER], True, "Nobody leads."),
        (FOLLOWS, [LEADER | {"state": "starting"}, FOLLOWER], True, "Nobody leads."),
        ({"state": "creating replica"}, [LEADER, FOLLOWER], True, "This member's PostgreSQL is creating replica."),
        ({"state": "running", "role": "replica"}, [LEADER, FOLLOWER], True, "This member does not follow the leader."),
        ({}, [], True, "Nobody leads."),
    ],
)
def test_what_a_cluster_is_waited_for(member, members, strict, said):
    assert patroni.missing(member, {"members": members}, strict) == said


def test_the_leader_restarts_last():
    assert [one["name"] for one in patroni.in_order({"members": [LEADER, FOLLOWER, OTHER]})] == ["a", "c", "b"]


def test_who_neither_leads_nor_follows():
    assert patroni.lagging({"members": [LEADER, FOLLOWER, OTHER]}) == []
    broken = [LEADER | {"state": "stopped"}, FOLLOWER, OTHER | {"state": "start failed"}]
    assert patroni.lagging({"members": broken}) == ["b", "a"]


def test_a_unit_that_does_not_run_is_not_outdated():
    assert patroni.started_at("") == patroni.started_at("n/a") == float("inf")
    assert patroni.started_at("Sat 2026-11-21 10:00:00.500000 UTC") == 1795255200.5
