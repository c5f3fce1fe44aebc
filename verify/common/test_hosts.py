"""What every host shows: what listens, what runs, who may read secrets; and that it comes back after a reboot."""

import json
import shlex
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from verify import FIRST, TOPOLOGY, container, contract, deploy, eventually, exposure, manage, node, playbook
from verify.tiers import UNITS, sockets, units

SECRETS = [
    *(contract(name) for name in ("broker_password", "broker_cookie", "monitor_password", "redis_internal_password")),
    *(secret for kind in ("broker", "database", "redis") for secret in contract(f"{kind}_passwords").values()),
    *contract("django_secret_keys").values(),
]
FIREWALL = "quintet-firewall.service"


def by_ssh(host):
    """Whether it is by SSH that a deploy comes to a host."""
    return contract("ansible_connection | default('ssh')", host) == "ssh"


def expected_sockets(host):
    """What the contract says that a host listens on."""
    ways_in = {("0.0.0.0", 22), ("[::]", 22)} if by_ssh(host) else set()
    return ways_in | sockets(host)


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
    for unit in [FIREWALL, *units(host)]:
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
            for unit in units(host):
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
    machine, kept, places = node(host), [], "/etc /opt /run /usr/local /var/lib/rabbitmq /var/log"
    # The middle of a key, which no line of it before has in common with others.
    key = contract("tls_identity", host).splitlines()[-3]
    for secret in [*SECRETS, key]:
        found = machine.run(f"grep -rlF --exclude-dir=venv -e %s {places} 2>/dev/null", secret)
        kept += found.stdout.splitlines()
        assert [path for path in found.stdout.splitlines() if machine.file(path).mode & 0o004] == []
    # Who only leads connections on has nothing to hide.
    assert kept or set(contract("group_names", host)) == {"edge", "ha"}, (
        "something is kept here, and this way of looking does not find it"
    )


OTHERS = "setpriv --reuid={user} --regid={user} --clear-groups sh -c {command}"


@pytest.mark.parametrize("host", contract("app_hosts"))
def test_nobody_reads_the_environment_of_a_service(host):
    """Neither another project's user, nor who asks systemd."""
    machine, names = node(host), [project["name"] for project in contract("host_projects", host)]
    services = {unit: name for unit in units(host) for name in names if unit.endswith(f"-{name}.service")}
    assert services
    for unit, name in services.items():
        secret = contract("django_secret_keys")[name]
        pid = machine.check_output("systemctl show --value --property MainPID %s", unit)
        own = f"tr '\\0' ' ' </proc/{pid}/environ"
        assert secret in machine.check_output(own), "it is not where it is looked for"
        look = f"{own}; cat {contract('projects_directory')}/{name}/environment; systemctl show {unit}"
        for user in {"daemon", *names} - {name}:
            seen = machine.run(OTHERS.format(user=user, command=shlex.quote(look)))
            assert "Permission denied" in seen.stderr
            assert "MainPID" in seen.stdout
            assert [secret for secret in SECRETS if secret in seen.stdout + seen.stderr] == []


def processes(host):
    """The main process of each daemon that is up on a host."""
    daemons = [unit for unit in units(host) if unit.endswith(".service")]
    show = f"systemctl show --value --property ActiveState --property MainPID {' '.join(daemons)}"
    states = [block.split() for block in node(host).check_output(show).split("\n\n")]
    found = dict(zip(daemons, states, strict=True))
    return {unit: next(filter(str.isdigit, state)) for unit, state in found.items() if "active" in state}


def test_what_is_killed_comes_back_by_itself():
    """All daemons of the first host of each tier, at the same time."""
    hosts = {TOPOLOGY.hosts(group)[0] for group in UNITS if TOPOLOGY.groups.get(group)}
    before = {host: processes(host) for host in hosts}
    for host, old in before.items():
        node(host).check_output(f"systemctl kill --kill-whom main --signal KILL {' '.join(old)}")
    for host, old in before.items():

        def others(host=host, old=old):
            now = processes(host)
            return now.keys() == old.keys() and not now.items() & old.items()

        eventually(others, seconds=90)
    assert eventually(lambda: manage(FIRST, "producer", "roundtrip"), seconds=60)["ok"]


def test_a_reboot_comes_back_by_itself():
    for host in TOPOLOGY.hosts():
        container(host).kill()
    for host in TOPOLOGY.hosts():
        container(host).start()
    assert eventually(lambda: manage(FIRST, "producer", "roundtrip"), seconds=180)["ok"]
    for host in TOPOLOGY.hosts():
        eventually(lambda host=host: node(host).check_output("systemctl is-system-running") == "running", seconds=60)


@pytest.mark.parametrize("project", [project["name"] for project in contract("projects")])
def test_a_release_is_the_same_on_each_of_its_hosts(project):
    """Its name, its files, and the list of what is in it."""
    seen = set()
    for host in next(one["hosts"] for one in contract("projects") if one["name"] == project):
        machine, home = node(host), f"{contract('projects_directory')}/{project}/current"
        listed = json.loads(machine.file(f"{home}/sbom.json").content_string)
        assert listed["metadata"]["component"]["name"] == project
        packages = {one["name"].lower() for one in listed["components"]}
        assert {"django", "celery", "psycopg"} <= packages
        files = "find -L source venv/lib -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum | sha256sum"
        digest = machine.check_output(f"cd {home} && {files}")
        seen.add((machine.check_output(f"readlink {home}"), digest, json.dumps(listed)))
    assert len(seen) == 1


# -- Who reaches what -------------------------------------------------------------------------------------------------

PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor

def is_open(place):
    try:
        socket.create_connection(place, 2).close()
        return True
    except OSError:
        return False

places = [tuple(place) for place in json.load(sys.stdin)]
with ThreadPoolExecutor(50) as pool:
    print(json.dumps([place for place, found in zip(places, pool.map(is_open, places)) if found]))
"""
# What listens anywhere, and ports where nothing does.
PORTS = sorted({port for host in TOPOLOGY.hosts() for _, port in expected_sockets(host)} | {22, 111, 8080})


def admitted(host):
    """The ports of a host that the contract opens, each with who may come; None for everybody, as for SSH."""
    found = {22: None} if by_ssh(host) else {}
    return found | {rule["port"]: rule.get("sources") for rule in contract("open_ports", host) if "port" in rule}


def admits(hosts, source):
    """The places of these hosts that are open to who comes from an address."""
    return {
        (contract("host_address", host), port)
        for host in hosts
        for port, sources in admitted(host).items()
        if (sources is None or source in sources) and port in {port for _, port in expected_sockets(host)}
    }


def every_port(hosts):
    """What PROBE is asked."""
    return json.dumps([[contract("host_address", host), port] for host in hosts for port in PORTS])


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_a_host_reaches_no_port_but_those_that_are_for_it(host):
    others = [other for other in TOPOLOGY.hosts() if other != host]
    if not others:
        pytest.skip("there is no other host")
    found = node(host).check_output(f"python3 -c {shlex.quote(PROBE)} <<'QUINTET'\n{every_port(others)}\nQUINTET")
    assert {tuple(one) for one in json.loads(found)} == admits(others, contract("host_address", host))


def test_from_outside_no_port_is_open_but_those_for_everybody():
    """This machine is no host of the topology."""
    with socket.socket(type=socket.SOCK_DGRAM) as link:
        link.connect((contract("host_address"), 9))
        own = link.getsockname()[0]
    command, asked = [sys.executable, "-c", PROBE], every_port(TOPOLOGY.hosts())
    found = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout
    assert {tuple(one) for one in json.loads(found)} == admits(TOPOLOGY.hosts(), own)


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


# A network of two. Within, its rules are in force, and 22 and 8099 listen by TCP and UDP. Outside is who asks.
NEIGHBOURS = """
set -eu
within=
unshare --net sleep 60 & outside=$!
trap 'kill $outside $within 2>/dev/null' EXIT
while [ "$(readlink /proc/$outside/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link add within type veth peer name outside netns $outside
ip link set lo up; ip link set within up
ip addr add 192.0.2.1/24 dev within; ip addr add fd00:2::1/64 dev within nodad
nsenter --net=/proc/$outside/ns/net sh -c 'ip link set outside up
ip addr add 192.0.2.2/24 dev outside; ip addr add fd00:2::2/64 dev outside nodad'
python3 -c "$1" & within=$!
nft -f /etc/quintet/firewall.nft
nsenter --net=/proc/$outside/ns/net python3 -c "$2"
nft delete table inet quintet
nsenter --net=/proc/$outside/ns/net python3 -c "$2"
"""
LISTEN = """
import select, socket
links = [socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) for port in (22, 8099)]
for port in (22, 8099):
    link = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    link.bind(("::", port))
    links.append(link)
while True:
    for link in select.select(links, [], [])[0]:
        if link.type == socket.SOCK_STREAM:
            link.accept()[0].close()
        else:
            link.sendto(*link.recvfrom(1))
"""
KNOCK = """
import socket, time
time.sleep(1)
found = []
for address, family, version in (("192.0.2.1", socket.AF_INET, 4), ("fd00:2::1", socket.AF_INET6, 6)):
    for name, kind in (("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)):
        for port in (22, 8099):
            with socket.socket(family, kind) as link:
                link.settimeout(1)
                try:
                    link.connect((address, port))
                    if kind == socket.SOCK_DGRAM:
                        link.send(b"x")
                        link.recv(1)
                    found.append(f"{name}{version}:{port}")
                except OSError:
                    pass
print(*found)
"""


@pytest.fixture(scope="module")
def knocked():
    """What a neighbour reaches on each host with its rules, and without them. All knock at the same time."""
    command, hosts = shlex.join(["unshare", "--net", "sh", "-c", NEIGHBOURS, "sh", LISTEN, KNOCK]), TOPOLOGY.hosts()
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = pool.map(lambda host: node(host).check_output(command).splitlines(), hosts)
        return dict(zip(hosts, found, strict=True))


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_the_firewall_drops_it_by_ipv6_and_by_udp_as_well(knocked, host):
    if contract("hardening_ssh_port", host) != 22:
        pytest.skip("SSH is elsewhere")
    with_rules, without = knocked[host]
    assert with_rules == "tcp4:22 tcp6:22"
    assert without == " ".join(f"{kind}:{port}" for kind in ("tcp4", "udp4", "tcp6", "udp6") for port in (22, 8099))


@pytest.mark.alike
def test_rules_that_cannot_be_loaded_change_nothing():
    host, look = TOPOLOGY.hosts("rabbitmq")[0], "cat /etc/quintet/firewall.nft; nft list table inet quintet"
    before = node(host).check_output(look)
    result = playbook("deploy.yml", "--limit", host, extra={"firewall_extra_rules": [{"port": 99999}]})
    assert result.returncode != 0
    assert "/etc/quintet/firewall.nft is left as it was" in result.stdout
    assert node(host).check_output(look) == before
    assert deploy(limit=host)[0] == 0


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_the_journal_has_a_limit(host):
    """As journald says itself when it begins."""
    began = "MESSAGE_ID=ec387f577b844b8fa948f33cad9a75e6"
    lines = node(host).check_output("journalctl --output json _COMM=systemd-journal %s", began).splitlines()
    said = [json.loads(line) for line in lines]
    [*_, last] = [one for one in said if one["JOURNAL_NAME"] == "System Journal"]
    assert int(last["MAX_USE"]) == contract("hardening_journal_mb | default(1024)", host) * 2**20


# At most, by how a unit's name begins.
EXPOSURE = {
    **dict.fromkeys(("gunicorn-", "celery-", "relay-", "haproxy.", "pgbackrest.", "quintet-", "epmd."), 2.0),
    **dict.fromkeys(("etcd.", "keepalived.", "nginx.", "redis-server@", "redis-sentinel@"), 3.5),
    **dict.fromkeys(("patroni.", "postgresql@", "rabbitmq-server."), 4.5),
}


def services(host):
    """The services that a host runs, with what they start themselves."""
    started = ["epmd.service"] if "rabbitmq" in contract("group_names", host) else []
    return [unit for unit in [FIREWALL, *started, *units(host)] if unit.endswith(".service")]


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_services_have_few_rights(host):
    for unit in services(host):
        [limit] = [limit for start, limit in EXPOSURE.items() if unit.startswith(start)]
        assert exposure(host, unit) <= limit, unit


# As the kernel knows them, by either version of its control groups.
LIMITS = """
group=$(systemctl show --value --property ControlGroup {unit}); cd /sys/fs/cgroup
cat "./memory$group/memory.limit_in_bytes" "./$group/memory.max" 2>/dev/null
cat "./pids$group/pids.max" "./$group/pids.max" 2>/dev/null
"""


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_no_service_takes_all_memory_or_all_processes(host):
    whole = contract("total_memory_mb", host) * 2**20
    # The firewall's ends when its rules are in force.
    for unit in set(services(host)) - {FIREWALL}:
        memory, processes = node(host).run(LIMITS.format(unit=unit)).stdout.split()
        assert int(memory) < whole, unit
        assert int(processes) <= 1024, unit


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_security_updates_leave_alone_what_has_data(host):
    machine = node(host)
    config = machine.check_output("apt-config dump")
    assert 'APT::Periodic::Unattended-Upgrade "1";' in config
    assert all(f'Unattended-Upgrade::Package-Blacklist:: "{name}";' in config for name in contract("held_packages"))
    assert machine.file("/usr/bin/unattended-upgrade").exists


@pytest.mark.slow
def test_ssh_is_left_as_it_is_found_unless_a_site_says_otherwise():
    """What sshd would do, whether or not it runs."""
    machine, asked = node(TOPOLOGY.hosts("redis")[0]), ("passwordauthentication", "permitrootlogin", "x11forwarding")
    # As on a host to which people come by SSH.
    machine.check_output("mkdir -p /run/sshd; ssh-keygen -A")

    def settings():
        lines = machine.check_output("sshd -T").splitlines()
        return [line.split()[1] for name in asked for line in lines if line.startswith(name + " ")]

    found = settings()
    assert len(found) == len(asked)
    assert found != ["no"] * len(asked)
    try:
        deploy(limit="redis", extra={"ssh_hardening": True})
        assert settings() == ["no"] * len(asked)
    finally:
        deploy(limit="redis")
    assert settings() == found
