"""Foreign projects on the same servers do not get at each other."""

import json
from itertools import product

import pytest

from verify import contract, node, python_of
from verify.foreign import APP_HOSTS, FIRST, PROJECTS, WORKER, rabbitmqctl

# What logins come to, in their order.
DATABASES = """
import psycopg
def come_to(url):
    try:
        psycopg.connect(url, connect_timeout=5).close()
        return "admitted"
    except psycopg.OperationalError as exc:
        return str(exc)
print(json.dumps([come_to(url) for url in given["urls"]]))
"""
BROKERS = """
from kombu import Connection
def come_to(url):
    try:
        with Connection(url, connect_timeout=5) as connection:
            connection.connect()
        return "admitted"
    except Exception as exc:
        return type(exc).__name__
print(json.dumps([come_to(url) for url in given["urls"]]))
"""


def come_to(source, pairs, url):
    """What a login as each pair's first project to the second one's place comes to, from a worker's host."""
    result = python_of("guestbook", WORKER, source, urls=[url(*pair) for pair in pairs])
    assert result.rc == 0, result.stderr
    return dict(zip(pairs, json.loads(result.stdout), strict=True))


def test_each_enters_its_own_database_only():
    pairs = list(product(PROJECTS, PROJECTS))

    def url(user, database):
        address = f"{contract('service_names.database')}:{contract('database_port')}"
        return f"postgresql://{user}:{contract('database_passwords')[user]}@{address}/{database}"

    for (user, database), found in come_to(DATABASES, pairs, url).items():
        if user == database:
            assert found == "admitted"
        else:
            assert "FATAL" in found, f"{user} in the database of {database}: {found}"


def test_each_enters_its_own_vhost_only():
    places = {name: (project["broker"]["user"], project["broker"]["vhost"]) for name, project in PROJECTS.items()}
    assert len({user for user, _ in places.values()}) == len({vhost for _, vhost in places.values()}) == len(PROJECTS)
    places["shared"] = (contract("broker_user"), contract("broker_vhost"))
    pairs = list(product(PROJECTS, places))

    def url(client, place):
        address = f"{contract('service_names.broker')}:{contract('broker_port')}"
        user = places[client][0]
        return f"amqp://{user}:{contract('broker_passwords')[user]}@{address}/{places[place][1]}"

    for (client, place), found in come_to(BROKERS, pairs, url).items():
        assert found == ("admitted" if client == place else "NotAllowed"), f"{client} in the vhost of {place}: {found}"


@pytest.mark.parametrize("project", PROJECTS)
def test_permissions_are_exact(project):
    broker = PROJECTS[project]["broker"]
    permissions = {"configure": ".*", "write": ".*", "read": ".*"}
    assert rabbitmqctl("list_user_permissions", broker["user"]) == [{"vhost": broker["vhost"], **permissions}]


SELECT = """
import redis
client = redis.Redis.from_url(given["url"], socket_timeout=5)
for number in given["numbers"]:
    try:
        client.execute_command("SELECT", number)
        print(number)
    except redis.exceptions.NoPermissionError:
        pass
"""


@pytest.mark.parametrize("name", PROJECTS)
def test_each_enters_its_own_databases_in_redis_only(name):
    numbers = sorted(one["redis_database"] + more for one in PROJECTS.values() for more in (0, 1))
    assert len(set(numbers)) == 2 * len(PROJECTS)
    url = contract("result_backend_url", project=PROJECTS[name])
    found = python_of("talks", WORKER, SELECT, url=url, numbers=[*numbers, 0]).stdout.split()
    assert [int(number) for number in found] == [PROJECTS[name]["redis_database"] + more for more in (0, 1)]


@pytest.mark.parametrize("host", APP_HOSTS)
def test_nobody_reads_what_is_another_projects(host):
    machine = node(host)
    directory = contract("projects_directory")
    key = f"{directory}/shop/files/signing.key"
    assert machine.check_output("runuser -u shop -- cat %s", key) == PROJECTS["shop"]["state"]["files"]["signing.key"]
    for path in (key, f"{directory}/shop/environment", "/var/lib/talks"):
        assert machine.run("runuser -u ledger -- ls %s && runuser -u ledger -- head %s", path, path).rc != 0


def test_a_shared_file_is_the_same_on_all_hosts():
    path = f"{contract('projects_directory')}/talks/files/pretalx.cfg"
    assert len({node(host).file(path).content_string for host in APP_HOSTS}) == 1
    assert not node(FIRST).file("/var/lib/talks/.secret").exists, "it made up a secret key of its own"
