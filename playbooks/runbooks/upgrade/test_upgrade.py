"""Packages newer than those installed, from an archive on the hosts themselves, and what an upgrade makes of them.

They are what is installed, packed again with another version: what is upgraded by them works as before.
"""

import itertools
import re
import shlex

import pytest

from verify import TOPOLOGY, contract, deploy, failure, node, playbook
from verify.stream import Stream, assert_nothing_lost
from verify.tiers import several

RUNBOOK = "runbooks/upgrade/playbook.yml"
APPS = [TOPOLOGY.hosts("web")[0], TOPOLOGY.hosts("worker")[0]]
REDIS, BROKER = TOPOLOGY.hosts("redis")[0], TOPOLOGY.hosts("rabbitmq")[0]
PROGRAM = "/usr/sbin/haproxy"
UNDISTURBED_SECONDS = 10
# Tiers whose data several hosts have: package, unit, what is asked for besides, and what may be answered meanwhile.
TIERS = [
    ("postgresql", f"postgresql-{contract('database_version')}", "patroni", {"confirm": "postgresql"}, 503),
    ("rabbitmq", "rabbitmq-server", "rabbitmq-server", {}, None),
]

PUBLISH = """
set -eu
mkdir -p /opt/newer && cd /opt/newer
apt-get -qq download "$1={before}"
dpkg-deb -R "$1"_*.deb "$1"
sed -i 's/^Version: .*/Version: {after}/' "$1/DEBIAN/control"
rm "$1"_*.deb
dpkg-deb -Znone -b "$1" "$1.deb" >/dev/null
{{
  dpkg-deb -f "$1.deb"
  echo "Filename: ./$1.deb"
  echo "Size: $(stat -c %s "$1.deb")"
  echo "SHA256: $(sha256sum "$1.deb" | cut -d' ' -f1)"
}} >Packages
echo 'deb [trusted=yes] file:/opt/newer ./' >/etc/apt/sources.list.d/newer.list
"""
WITHDRAW = "rm -rf /opt/newer /etc/apt/sources.list.d/newer.list && apt-get -qq update && "
AS_BEFORE = "DEBIAN_FRONTEND=noninteractive apt-get -qq --yes --allow-downgrades install"


def version(host, package):
    return node(host).check_output(f"dpkg-query --show --showformat '${{Version}}' {package}")


def process(host, unit):
    return node(host).check_output(f"systemctl show --value --property MainPID {unit}")


def moments(host, package):
    """When dpkg began with a package on a host, and when it was done, the last time; they are ordered as texts."""
    log = node(host).check_output("cat /var/log/dpkg.log")
    return [
        re.findall(rf"^(\S+ \S+) {what} {package}:", log, re.MULTILINE)[-1] for what in ("upgrade", "status installed")
    ]


@pytest.fixture
def newer():
    """A function that publishes a newer package for a host, and gives its versions; all is withdrawn in the end."""
    published = []

    def publish(host, package, after=None):
        before = version(host, package)
        after = after or f"{before}+newer1"
        script = PUBLISH.format(before=before, after=after).replace("$1", package)
        node(host).check_output(f"sh -c {shlex.quote(script)}")
        published.append((host, package, before))
        return before, after

    yield publish
    for host, package, before in published:
        node(host).check_output(f"{WITHDRAW} {AS_BEFORE} {package}={before}")


def upgrade(*arguments, **asked):
    result = playbook(RUNBOOK, *arguments, extra=asked)
    assert result.returncode == 0, failure(result)
    return result.stdout


@pytest.mark.slow
def test_what_has_no_data_is_upgraded_on_one_host_after_the_other(newer):
    versions = {host: newer(host, "haproxy") for host in APPS}
    waits = newer(REDIS, "redis-server")
    before = {unit: process(APPS[0], unit) for unit in ("gunicorn-producer", "relay-producer")}
    shown = upgrade("--check", "--limit", APPS[0])
    assert f"{APPS[0]}: haproxy {versions[APPS[0]][0]} -> {versions[APPS[0]][1]}" in shown
    assert version(APPS[0], "haproxy") == versions[APPS[0]][0]
    with Stream(per_second=3) as stream:
        said = upgrade()
    for host, (old, new) in versions.items():
        assert f"{host}: haproxy {old} -> {new}" in said
        assert version(host, "haproxy") == new
        # Whoever was connected stays with a process of before.
        main = process(host, "haproxy")
        newest = node(host).check_output(f"tr ' ' '\\n' </proc/{main}/task/{main}/children | sort -n | tail -n 1")
        assert [node(host).check_output(f"readlink /proc/{one}/exe") for one in (main, newest)] == 2 * [PROGRAM]
    (_, first), (second, _) = (moments(host, "haproxy") for host in APPS)
    assert first <= second, "both at once"
    assert f"{REDIS}: redis-server {waits[0]} -> {waits[1]} waits until its tier is named" in said
    assert version(REDIS, "redis-server") == waits[0]
    assert {unit: process(APPS[0], unit) for unit in before} == before, "what needed no restart was restarted"
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)
    assert "Nothing changed. There was nothing to upgrade." in " ".join(upgrade("--limit", APPS[0]).split())


@pytest.mark.slow
def test_what_has_data_is_upgraded_when_its_tier_is_named(newer):
    old, new = newer(REDIS, "redis-server")
    before = {unit: process(REDIS, f"redis-server@{unit}") for unit in ("results", "cache")}
    with Stream(per_second=3) as stream:
        said = upgrade(upgrade_tier="redis")
    assert f"{REDIS}: redis-server {old} -> {new}" in said
    assert version(REDIS, "redis-server") == new
    after = {unit: process(REDIS, f"redis-server@{unit}") for unit in before}
    assert not before.items() & after.items()
    assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS)


@pytest.mark.slow
@several
@pytest.mark.parametrize(("tier", "package", "unit", "asked", "refused"), TIERS)
def test_hosts_of_one_tier_are_upgraded_in_turn(newer, tier, package, unit, asked, refused):
    hosts = TOPOLOGY.hosts(tier)
    versions = {host: newer(host, package) for host in hosts}
    before = {host: process(host, unit) for host in hosts}
    with Stream(per_second=3) as stream:
        said = upgrade(upgrade_tier=tier, **asked)
    for host, (old, new) in versions.items():
        assert f"{host}: {package} {old} -> {new}" in said
        assert version(host, package) == new
    assert not before.items() & {host: process(host, unit) for host in hosts}.items()
    done = [moments(host, package) for host in hosts]
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(done)), "two at once"
    found = assert_nothing_lost(stream, slowest=UNDISTURBED_SECONDS, refused={refused})
    print(found)
    assert found.gap < UNDISTURBED_SECONDS


def test_a_version_that_cannot_be_reached_is_refused(newer):
    old, _ = newer(BROKER, "rabbitmq-server", "4.2.0-1")
    before = process(BROKER, "rabbitmq-server")
    result = playbook(RUNBOOK, extra={"upgrade_tier": "rabbitmq"})
    assert result.returncode != 0
    assert f"RabbitMQ goes from {old} to 4.2.0-1, which skips a minor version" in " ".join(result.stdout.split())
    assert version(BROKER, "rabbitmq-server") == old
    assert process(BROKER, "rabbitmq-server") == before


def test_a_deploy_has_nothing_to_do():
    assert deploy()[0] == 0


@pytest.mark.parametrize(
    ("asked", "says"),
    [({"upgrade_tier": "mail"}, "upgrade_tier is mail."), ({"upgrade_tier": "postgresql"}, "-e confirm=postgresql")],
)
def test_what_cannot_be_is_refused(asked, says):
    result = playbook(RUNBOOK, extra=asked)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())
