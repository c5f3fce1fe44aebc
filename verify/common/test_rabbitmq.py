"""Who may do what at the broker, and that a change in the inventory reaches a broker that is in use."""

import base64
import json
from shlex import quote

import pytest

from verify import TOPOLOGY, contract, deploy, node, python_of

BROKER = TOPOLOGY.hosts("rabbitmq")[0]
WORKER = TOPOLOGY.hosts("worker")[0]
LOGIN = """
from kombu import Connection
try:
    with Connection(given["url"], connect_timeout=5) as connection:
        connection.connect()
    print("admitted")
except Exception as exc:
    print(type(exc).__name__, exc)
"""


def rabbitmqctl(*arguments):
    """The JSON of a rabbitmqctl command."""
    return json.loads(node(BROKER).check_output("rabbitmqctl --quiet --formatter json " + " ".join(arguments)))


def login(user, password, vhost, host=WORKER):
    """What a login over AMQP, from a host of the topology, comes to."""
    quoted = [contract("value | urlencode | replace('/', '%2F')", value=value) for value in (user, password, vhost)]
    url = f"amqp://{quoted[0]}:{quoted[1]}@{contract('service_names.broker')}:{contract('broker_port')}/{quoted[2]}"
    return python_of("service", host, LOGIN, url=url).stdout.strip()


def management(user, password, path):
    """What the management API says to a user, asked on its host; an error's words if it refuses."""
    address, port = contract("rabbitmq_management_address", BROKER), contract("rabbitmq_management_port", BROKER)
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    code = (
        "import sys\n"
        "from urllib.request import Request, urlopen\n"
        "url, token = sys.stdin.read().split()\n"
        "print(urlopen(Request(url, headers={'Authorization': 'Basic ' + token}), timeout=5).read().decode())"
    )
    url = f"http://{address}:{port}/api/{path}"
    result = node(BROKER).run(f"python3 -c {quote(code)} <<'QUINTET'\n{url} {token}\nQUINTET")
    return json.loads(result.stdout) if result.rc == 0 else result.stderr


def whoami(user, password):
    return management(user, password, "whoami")


def test_what_it_knows_of_users_and_queues_is_in_khepri():
    """Mnesia has two truths after two networks: verify/ha/test_rabbitmq.py."""
    flags = rabbitmqctl("list_feature_flags", "name", "state")
    assert {"name": "khepri_db", "state": "enabled"} in flags


def test_worker_host_is_admitted_to_its_vhost_only():
    user, password, vhost = contract("broker_user"), contract("broker_password"), contract("broker_vhost")
    assert login(user, password, vhost) == "admitted"
    assert "NotAllowed" in login(user, password, "/")
    assert "NotAllowed" in login(user, password, "no-such-vhost")
    assert "AccessRefused" in login(user, "wrong", vhost)


def test_guest_is_gone():
    assert "AccessRefused" in login("guest", "guest", "/")
    assert "guest" not in {user["user"] for user in rabbitmqctl("list_users")}


def test_tags_are_exact():
    assert whoami(contract("broker_user"), contract("broker_password"))["tags"] == contract("broker_tags")
    assert "401" in whoami(contract("broker_user"), "wrong")


def test_permissions_are_exact():
    assert rabbitmqctl("list_user_permissions", contract("broker_user")) == [
        {"vhost": contract("broker_vhost"), **contract("broker_permissions")}
    ]


CONSUME = """
from kombu import Connection
with Connection(given["url"], connect_timeout=5) as connection:
    for what, arguments in given["asked"]:
        channel = connection.connection.channel()
        try:
            getattr(channel, what)(**arguments)
            print("allowed")
        except Exception as exc:
            print(type(exc).__name__)
"""


@pytest.mark.parametrize(
    ("name", "own", "other"), [("producer", "results", "service"), ("service", "service", "results")]
)
def test_a_project_takes_from_its_own_queues_only(name, own, other):
    """A queue is looked at (passive), emptied, read, deleted, and made."""
    project = next(one for one in contract("projects") if one["name"] == name)
    asked = [
        ("queue_declare", {"queue": own, "passive": True}),
        ("basic_get", {"queue": other}),
        ("queue_purge", {"queue": other}),
        ("queue_delete", {"queue": other}),
        ("queue_declare", {"queue": "any", "durable": True}),
        ("exchange_declare", {"exchange": "any", "type": "fanout"}),
        ("basic_get", {"queue": "parked"}),
    ]
    seen = python_of(
        "service", WORKER, CONSUME, url=contract("broker_url", project=project), asked=asked
    ).stdout.split()
    assert seen[0] == "allowed"
    assert seen[1:6] == ["AccessRefused"] * 5
    assert seen[6] == ("allowed" if name == "producer" else "AccessRefused")


def test_who_monitors_only_looks():
    user, password = "monitor", contract("monitor_password")
    assert whoami(user, password)["tags"] == ["monitoring"]
    assert "NotAllowed" in login(user, password, contract("broker_vhost"))


def test_who_manages_sees_its_own_vhost_and_a_service_nothing():
    user, password, vhost = contract("broker_user"), contract("broker_password"), contract("broker_vhost")
    assert [one["name"] for one in management(user, password, "vhosts")] == [vhost]
    assert {one["vhost"] for one in management(user, password, "queues")} == {vhost}
    for path in ("users", "queues/%2F", "definitions", "permissions"):
        assert "401" in management(user, password, path) or "404" in management(user, password, path)
    for project in contract("projects"):
        service = project["broker"]["user"]
        assert "401" in management(service, contract("broker_passwords")[service], "queues")


def test_queues_are_quorum_queues():
    vhosts = rabbitmqctl("list_vhosts", "name", "default_queue_type")
    assert {"name": contract("broker_vhost"), "default_queue_type": "quorum"} in vhosts
    queues = {queue["name"]: queue["type"] for queue in rabbitmqctl("list_queues", "-p", "rabbit", "name", "type")}
    assert queues["service"] in ("quorum", "rabbit_quorum_queue")


def declare(*arguments, users, vhosts=()):
    """Deploy with these extra users and vhosts in the inventory."""
    return deploy(
        *arguments, limit="rabbitmq", extra={"broker_extra_users": users, "broker_extra_vhosts": list(vhosts)}
    )


@pytest.fixture
def without_auditor():
    yield
    declare(users=[{"name": "auditor", "state": "absent"}], vhosts=[{"name": "audit", "state": "absent"}])


@pytest.mark.slow
@pytest.mark.usefixtures("without_auditor")
def test_changed_inventory_reaches_the_broker():
    grant = {"audit": {"configure": "", "write": "", "read": "^audit"}}
    auditor = {"name": "auditor", "password": "first $HOME \"x' \\", "tags": ["monitoring"], "permissions": grant}
    audit = {"name": "audit", "default_queue_type": "classic"}

    changes, _ = declare(users=[auditor], vhosts=[audit])
    assert changes == 1
    assert login("auditor", auditor["password"], "audit") == "admitted"
    assert whoami("auditor", auditor["password"])["tags"] == ["monitoring"]

    changed = auditor | {"password": "second", "tags": ["policymaker", "management"], "permissions": {}}
    _, output = declare("--check", "--diff", users=[changed], vhosts=[audit])
    assert "users: auditor (password, tags)" in output
    assert "second" not in output
    assert login("auditor", auditor["password"], "audit") == "admitted", "check mode changed the broker"

    declare(users=[changed], vhosts=[audit])
    assert "AccessRefused" in login("auditor", auditor["password"], "audit")
    assert "NotAllowed" in login("auditor", "second", "audit"), "a permission that is no longer declared is left"
    assert sorted(whoami("auditor", "second")["tags"]) == ["management", "policymaker"]

    changes, _ = declare(users=[changed], vhosts=[audit])
    assert changes == 0

    declare(users=[{"name": "auditor", "state": "absent"}], vhosts=[{"name": "audit", "state": "absent"}])
    assert "auditor" not in {user["user"] for user in rabbitmqctl("list_users")}
    assert "audit" not in {vhost["name"] for vhost in rabbitmqctl("list_vhosts", "name")}


@pytest.mark.slow
def test_drift_is_put_right():
    user, vhost = contract("broker_user"), contract("broker_vhost")
    broker = node(BROKER)
    broker.check_output(f"rabbitmqctl change_password {user} drifted && rabbitmqctl set_user_tags {user} administrator")
    broker.check_output("rabbitmqctl add_user guest guest")
    assert "AccessRefused" in login(user, contract("broker_password"), vhost)
    assert deploy(limit="rabbitmq")[0] == 1
    assert login(user, contract("broker_password"), vhost) == "admitted"
    assert whoami(user, contract("broker_password"))["tags"] == contract("broker_tags")
    assert "guest" not in {user["user"] for user in rabbitmqctl("list_users")}
