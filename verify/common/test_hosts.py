"""What every host shows: what listens, what runs, who may read secrets; and that it comes back after a reboot."""

import json
import shlex
import socket

import docker
import pytest

from verify import FIRST, TOPOLOGY, contract, eventually, manage, node

SECRETS = [
    *(contract("broker_password"), contract("monitor_password")),
    *(secret for kind in ("broker", "database", "redis") for secret in contract(f"{kind}_passwords").values()),
    *contract("django_secret_keys").values(),
]
UNITS = ["quintet-firewall.service"]
TIER_UNITS = {
    "postgresql": [f"postgresql@{contract('database_version')}-main.service"],
    "redis": ["redis-server@results.service", "redis-server@cache.service"],
    "rabbitmq": ["rabbitmq-server.service"],
    "web": ["haproxy.service", "nginx.service", "gunicorn-producer.service", "gunicorn-producer.socket"],
    "worker": ["haproxy.service", "celery-service.service"],
}


def expected_sockets(host):
    """What the contract says that a host listens on."""
    everywhere, loopback = contract("listen_addresses", host), "127.0.0.1"
    proxies = {(contract("proxy_address"), proxy["port"]) for proxy in contract("proxies", host)}
    sockets = {
        "postgresql": {(address, contract("database_port")) for address in everywhere},
        "redis": {
            (address, port)
            for address in everywhere
            for port in (contract("result_backend_port"), contract("cache_port"))
        },
        "rabbitmq": {(address, contract("broker_tls_port")) for address in everywhere}
        | {(contract("host_address", host), contract("broker_management_port")), (loopback, 4369), (loopback, 25672)},
        "web": {("0.0.0.0", contract("http_port")), *proxies},
        "worker": proxies,
    }
    return set().union(*(sockets[group] for group in contract("group_names", host) if group in sockets))


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_nothing_listens_beyond_what_the_topology_says(host):
    lines = node(host).check_output("ss --no-header --numeric --listening --tcp --udp").splitlines()
    found = {tuple(line.split()[4].rsplit(":", 1)) for line in lines}
    # 127.0.0.11 is the resolver that Docker gives a container.
    found = {(address, int(port)) for address, port in found if address != "127.0.0.11"}
    assert found == expected_sockets(host)


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_units_run_and_none_has_failed(host):
    machine = node(host)
    for units in [UNITS, *(TIER_UNITS[group] for group in contract("group_names", host))]:
        for unit in units:
            assert machine.check_output("systemctl is-active %s", unit) == "active"
            assert machine.check_output("systemctl is-enabled %s", unit).startswith("enabled")
    assert machine.check_output("systemctl --failed --no-legend") == ""


@pytest.mark.parametrize("group", ["web", "worker"])
def test_services_are_unprivileged_and_secrets_their_own(group):
    for host in TOPOLOGY.hosts(group):
        machine = node(host)
        for project in contract("host_projects", host):
            name = project["name"]
            environment = machine.file(f"{contract('projects_directory')}/{name}/environment")
            assert (environment.user, oct(environment.mode)) == ("root", "0o600")
            for unit in TIER_UNITS[group]:
                if unit in (f"gunicorn-{name}.service", f"celery-{name}.service"):
                    pid = machine.check_output("systemctl show --value --property MainPID %s", unit)
                    assert machine.file(f"/proc/{pid}").user == name
            code = machine.file(f"{contract('projects_directory')}/{name}/current/source/manage.py")
            assert code.user == "root", "a service can change its own code"


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_no_secret_is_in_a_command_line(host):
    lines = node(host).check_output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; true")
    assert "systemd" in lines
    assert [secret for secret in SECRETS if secret in lines] == []


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_secrets_are_in_no_file_that_everybody_reads(host):
    machine = node(host)
    for secret in SECRETS:
        found = machine.run("grep -rlF --exclude-dir=venv -e %s /etc /opt /var/log /run 2>/dev/null", secret)
        assert [path for path in found.stdout.splitlines() if machine.file(path).mode & 0o004] == []


def test_a_reboot_comes_back_by_itself():
    client = docker.from_env()
    containers = [client.containers.get(contract("ansible_host", host)) for host in TOPOLOGY.hosts()]
    for container in containers:
        container.kill()
    for container in containers:
        container.start()
    assert eventually(lambda: manage(FIRST, "producer", "roundtrip"), seconds=120)["ok"]
    for host in TOPOLOGY.hosts():
        eventually(lambda host=host: node(host).check_output("systemctl is-system-running") == "running", seconds=60)


# -- Who reaches what -------------------------------------------------------------------------------------------------

PROBE = """
import json, socket, sys
given = json.load(sys.stdin)
open_ports = []
for address, port in given:
    try:
        socket.create_connection((address, port), 1).close()
        open_ports.append([address, port])
    except OSError:
        pass
print(json.dumps(open_ports))
"""
# What listens anywhere, and ports where nothing does.
PORTS = sorted({port for host in TOPOLOGY.hosts() for _, port in expected_sockets(host)} | {22, 111, 8080})


def admitted(host):
    """The ports of a host that the contract opens, each with who may come; None for everybody."""
    return {rule["port"]: rule.get("sources") for rule in contract("open_ports", host)}


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_a_host_reaches_no_port_but_those_that_are_for_it(host):
    others = [other for other in TOPOLOGY.hosts() if other != host]
    if not others:
        pytest.skip("there is no other host")
    address = contract("host_address", host)
    places = {contract("host_address", other): other for other in others}
    asked = json.dumps([[place, port] for place in places for port in PORTS])
    found = node(host).check_output(f"python3 -c {shlex.quote(PROBE)} <<'QUINTET'\n{asked}\nQUINTET")
    expected = {
        (place, port)
        for place, other in places.items()
        for port, sources in admitted(other).items()
        if sources is None or address in sources
    }
    assert {tuple(one) for one in json.loads(found)} == expected


def test_the_firewall_drops_what_no_rule_names():
    """Even where something listens: here, for this test, on every address and a port that nobody knows."""
    for host in TOPOLOGY.hosts():
        machine, address = node(host), contract("host_address", host)
        machine.check_output("systemd-run --unit quintet-listen --collect python3 -m http.server 8099")
        try:
            eventually(lambda machine=machine: machine.run("ss -Hltn sport = :8099").stdout, 10)
            with pytest.raises(TimeoutError):
                socket.create_connection((address, 8099), 2)
            machine.check_output("systemctl stop quintet-firewall")
            socket.create_connection((address, 8099), 2).close()
        finally:
            machine.run("systemctl start quintet-firewall; systemctl stop quintet-listen")


# At most, by how a unit's name begins. systemd's own measure: 0 has no rights at all, and 10 all of them.
EXPOSURE = {
    **dict.fromkeys(("gunicorn-", "celery-", "relay-", "haproxy."), 2.0),
    **dict.fromkeys(("nginx.", "redis-server@"), 3.5),
    **dict.fromkeys(("postgresql@", "rabbitmq-server."), 4.5),
}


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_services_have_few_rights(host):
    lines = node(host).check_output("systemd-analyze security --no-pager --json=short")
    found = {unit["unit"]: float(unit["exposure"]) for unit in json.loads(lines)}
    measured = {
        name: (limit, found[name]) for name in found for start, limit in EXPOSURE.items() if name.startswith(start)
    }
    expected = [
        unit for group in contract("group_names", host) for unit in TIER_UNITS[group] if unit.endswith(".service")
    ]
    assert set(expected) <= measured.keys()
    assert {name: both for name, both in measured.items() if both[1] > both[0]} == {}


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_security_updates_leave_alone_what_has_data(host):
    machine = node(host)
    config = machine.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in config
    assert all(f'Unattended-Upgrade::Package-Blacklist:: "{name}";' in config for name in contract("held_packages"))
    assert machine.file("/usr/bin/unattended-upgrade").exists
