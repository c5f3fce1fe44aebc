"""Whom Redis admits, what they may do, and what an instance does with what it is given."""

import socket

import pytest

from verify import TOPOLOGY, contract, eventually, node, python_of

SERVER = TOPOLOGY.hosts("redis")[0]
WORKER = TOPOLOGY.hosts("worker")[0]
TALK = """
import redis
client = redis.Redis.from_url(given["url"], socket_timeout=5)
for command in given["commands"]:
    try:
        print(client.execute_command(*command))
    except redis.RedisError as exc:
        print(type(exc).__name__, exc)
"""
PROJECT = contract("projects")[0]
URLS = {"results": contract("result_backend_url", project=PROJECT), "cache": contract("cache_url", project=PROJECT)}


def talk(url, *commands):
    """What Redis answers to a worker host, a line for each command."""
    return python_of("service", WORKER, TALK, url=url, commands=commands).stdout.splitlines()


@pytest.mark.parametrize("name", URLS)
def test_only_the_named_user_is_admitted(name):
    url = URLS[name]
    scheme, rest = url.split("://")
    credentials, place = rest.rsplit("@", 1)
    assert talk(url, ["PING"]) == ["True"]
    assert "AuthenticationError" in talk(f"{scheme}://{place}", ["PING"])[0]
    assert "AuthenticationError" in talk(f"{scheme}://{PROJECT['name']}:wrong@{place}", ["PING"])[0]
    assert "AuthenticationError" in talk(f"{scheme}://:{credentials.split(':')[1]}@{place}", ["PING"])[0]
    other = contract("redis_passwords['service'] | urlencode | replace('/', '%2F')")
    assert talk(f"{scheme}://service:{other}@{place}", ["PING"]) == ["True"]
    assert "AuthenticationError" in talk(f"{scheme}://{PROJECT['name']}:{other}@{place}", ["PING"])[0]


@pytest.mark.parametrize(
    "command",
    [
        *(
            ["FLUSHALL"],
            ["CONFIG", "GET", "*"],
            ["ACL", "LIST"],
            ["SHUTDOWN"],
            ["KEYS", "*"],
            ["MONITOR"],
        ),
        # Other projects are in other databases.
        *(
            ["SELECT", "7"],
            ["MOVE", "x", "7"],
            ["COPY", "x", "x", "DB", "7"],
            ["SWAPDB", "0", "7"],
            ["PSUBSCRIBE", "*"],
        ),
    ],
    ids=lambda command: command[0],
)
def test_what_is_not_its_own_business_is_refused(command):
    assert talk(URLS["results"], command)[0].startswith("NoPermissionError")


@pytest.mark.parametrize("name", URLS)
def test_who_monitors_only_looks(name):
    credentials = "monitor:" + contract("monitor_password | urlencode | replace('/', '%2F')")
    url = f"redis://{credentials}@{URLS[name].rpartition('@')[2].split('/')[0]}"
    seen = talk(url, ["INFO", "clients"], ["GET", "x"], ["SET", "x", "y"], ["SUBSCRIBE", "x"])
    assert "connected_clients" in seen[0]
    assert all(line.startswith("NoPermissionError") for line in seen[1:])


@pytest.mark.parametrize("instance", contract("redis_instances", SERVER), ids=lambda instance: instance["name"])
def test_memory_limit_and_eviction_policy(instance):
    found = talk(URLS[instance["name"]], ["INFO", "memory"])[0]
    assert f"'maxmemory': {instance['maxmemory_mb'] * 1024 * 1024}" in found
    assert f"'maxmemory_policy': '{instance['maxmemory_policy']}'" in found


def test_results_survive_a_restart():
    assert talk(URLS["results"], ["SET", "verify:kept", "yes", "EX", "60"]) == ["True"]
    # What is a second old is on disk (appendfsync everysec); a clean stop writes the rest.
    node(SERVER).check_output("systemctl restart redis-server@results")
    assert eventually(lambda: talk(URLS["results"], ["GET", "verify:kept"]) == ["b'yes'"], seconds=20)


def test_a_stranger_is_refused():
    for url in URLS.values():
        port = int(url.rsplit(":", 1)[1].split("/")[0])
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            socket.create_connection((contract("host_address", SERVER), port), 2)
