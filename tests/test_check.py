"""Bad input is refused before any host is touched, by a sentence that names what is wrong and the file to edit.

Each case is a copy of inventories/ with one thing wrong, given to the playbook that operators run. Its hosts have an
address where nothing answers: whoever tries to reach one is unreachable, and that is looked for.
"""

import re
import shutil
from typing import NamedTuple

import pytest

from tests.play import play
from tests.topology import ROOT

OVERLAY = """\
all:
  vars:
    ansible_connection: ssh
    ansible_host: 192.0.2.1
    host_address: "192.0.2.{{ groups.all.index(inventory_hostname) + 10 }}"
    application_url: http://192.0.2.1
    management_url: http://192.0.2.1:15672
"""
ONEBOX, TOPOLOGY, HA, SITE = "onebox.yml", "quintet.yml", "ha.yml", "site.yml"
PROJECT, SECRETS = "group_vars/all/project.yml", "group_vars/all/secrets.yml"
APPLICATION = 'application: "producer.wsgi:application"'
WORKER = "worker: {celery_app: service, queues: [service], concurrency: 4, watchdog_seconds: 60}"
IN_PROJECT = "Edit inventories/group_vars/all/project.yml"
IN_SECRETS = "Edit inventories/group_vars/all/secrets.yml"


class Run(NamedTuple):
    """What came of it; in its words the copy's directory is `<site>`."""

    status: int
    words: str
    packed: list


class Case(NamedTuple):
    """In `file`, `old` becomes `new` (all of the rest, when `old` is empty: it is added); then `says` is said."""

    file: str
    old: str
    new: str
    says: tuple
    # Fewer hosts say it sooner.
    topology: str = ONEBOX


CASES = {
    # -- topologies ---------------------------------------------------------------------------------------------------
    "misspelt group": Case(TOPOLOGY, "worker:", "workers:", (TOPOLOGY, "Missing or empty", ": worker.", "workers")),
    "missing group": Case(
        TOPOLOGY, "    redis:\n      hosts:\n        redis1:\n", "", (TOPOLOGY, "Missing or empty", ": redis.")
    ),
    "empty group": Case(TOPOLOGY, "        web1:\n", "", (TOPOLOGY, "Missing or empty", ": web.")),
    "host in a misspelt group": Case(
        TOPOLOGY, "", "    wrker:\n      hosts:\n        worker2:\n", (TOPOLOGY, "in no tier: worker2", "misspelt")
    ),
    "two hosts that know nothing of each other": Case(
        TOPOLOGY,
        "        redis1:\n",
        "        redis1:\n        redis2:\n",
        (TOPOLOGY, "redis has 2 hosts", "children of `ha`"),
    ),
    "two halves that cannot decide": Case(
        HA,
        "rabbitmq: *data",
        "rabbitmq: {hosts: {data1: , data2: }}",
        (HA, "rabbitmq has 2 hosts", "no more than 1 would"),
    ),
    "backups that die with what they are of": Case(
        HA,
        "            edge2:\n        web:",
        "            data3:\n        web:",
        (HA, "backup has data3", "none of those of postgresql"),
    ),
    "two hosts that keep backups": Case(
        HA,
        "            edge2:\n        web:",
        "            edge1:\n            edge2:\n        web:",
        (HA, "backup has edge1, edge2", "One host"),
    ),
    "nobody who decides": Case(HA, "etcd: &data", "nothing: &data", (HA, "etcd has no hosts", "give it three")),
    "no address": Case(
        SITE, "host_address:", "host_adress:", ("Not set", "host_address", SITE, "inventories/example/hosts.yml")
    ),
    # -- settings -----------------------------------------------------------------------------------------------------
    "missing setting": Case(PROJECT, "broker_vhost: rabbit\n", "", ("broker_vhost", IN_PROJECT)),
    "empty setting": Case(PROJECT, "broker_vhost: rabbit", 'broker_vhost: ""', ("Empty: broker_vhost", IN_PROJECT)),
    "no projects": Case(PROJECT, "", "django_projects: []\n", ("Empty: django_projects", IN_PROJECT)),
    "wrong type": Case(PROJECT, "http_port: 80", "http_port: eighty", ("http_port", "eighty", IN_PROJECT)),
    "two services on one port": Case(
        PROJECT, "cache_port: 6380", "cache_port: 6379", ("Two services", "cache_port", "6379", IN_PROJECT)
    ),
    "no address for the firewall": Case(
        PROJECT,
        "firewall_extra_rules: []",
        "firewall_extra_rules: [{port: 9100, sources: [192.0.2.0/24, 192.0.2.300]}]",
        ("firewall_extra_rules", "neither an address nor a network: 192.0.2.300.", IN_PROJECT),
    ),
    "no URL": Case(SITE, "http://192.0.2.1\n", "192.0.2.1\n", ("application_url is no URL: 192.0.2.1", IN_PROJECT)),
    "no certificate": Case(
        PROJECT,
        "https_certificate: own",
        "https_certificate: given\napplication_url: https://192.0.2.1",
        ("https_identity is empty", IN_PROJECT),
    ),
    "a proxy that is not known": Case(
        PROJECT,
        "https_certificate: own",
        "https_certificate: elsewhere\napplication_url: https://192.0.2.1",
        ("no trusted_proxies says who", IN_PROJECT),
    ),
    "ACME without a word": Case(
        PROJECT,
        "https_certificate: own",
        "https_certificate: acme\napplication_url: https://192.0.2.1",
        ("https_acme is empty", IN_PROJECT),
    ),
    "ACME on another port": Case(
        PROJECT,
        "https_certificate: own\nhttps_acme: {}",
        "https_certificate: acme\napplication_url: https://192.0.2.1\nhttps_acme: {email: a@b.example}\nhttp_port: 81",
        ("http_port is 81: it asks at port 80", IN_PROJECT),
    ),
    "edge without an address": Case(
        TOPOLOGY,
        "",
        "    edge:\n      hosts:\n        edge1:\n",
        ("Not set for postgresql1: edge_address", SITE, "inventories/example/hosts.yml"),
    ),
    "edge at the address of a host": Case(
        TOPOLOGY,
        "",
        "    edge:\n      hosts:\n        edge1:\n  vars: {edge_address: 192.0.2.13}\n",
        (TOPOLOGY, "edge_address is 192.0.2.13, which is the address of one host", IN_PROJECT),
    ),
    # -- projects -----------------------------------------------------------------------------------------------------
    "unknown key in a project": Case(PROJECT, "gate: [", "gates: [", ("django_projects", "gates", IN_PROJECT)),
    "unknown key in web": Case(
        PROJECT, APPLICATION, APPLICATION + "\n      thread: 2", ("django_projects", "web", "thread", IN_PROJECT)
    ),
    "missing key in worker": Case(
        PROJECT, WORKER, "worker: {queues: [service]}", ("django_projects", "worker", "celery_app", IN_PROJECT)
    ),
    "no source": Case(PROJECT, "source: {path: app/producer}", "source: {root: x}", ("path, git, archive", IN_PROJECT)),
    "two sources": Case(
        PROJECT,
        "source: {path: app/producer}",
        "source: {path: app/producer, archive: x.tar}",
        ("mutually exclusive", "path|git|archive|package", IN_PROJECT),
    ),
    "path that does not exist": Case(
        PROJECT, "path: app/producer", "path: app/produce", ("quintet: producer: ", "source.path", "<site>/app/produce")
    ),
    "requirements that do not exist": Case(
        PROJECT,
        "source: {path: app/producer}\n    dependencies: {require_hashes: true}",
        "source: {path: app/producer}\n    dependencies: {requirements: [req.txt]}",
        ("quintet: producer: ", "dependencies.requirements", "req.txt"),
    ),
    "host that is none": Case(
        PROJECT, f"    {WORKER}\n", f"    {WORKER}\n    hosts: [worker7]\n", ("worker7", "`hosts`", IN_PROJECT)
    ),
    "host of the wrong tier": Case(
        PROJECT, f"    {WORKER}\n", f"    {WORKER}\n    hosts: [web1]\n", ("service", "`hosts`", IN_PROJECT), TOPOLOGY
    ),
    "place that no service has": Case(
        PROJECT,
        f"    {WORKER}\n",
        f"    {WORKER}\n    environment: {{DB: '{{database.hots}}'}}\n",
        ("DB: {database.hots} is no place of a service", "database.host,", IN_PROJECT),
    ),
    "empty secret of a project": Case(
        PROJECT,
        f"    {WORKER}\n",
        f"    {WORKER}\n    secrets: {{KEY: ''}}\n",
        ("service: secrets.KEY is empty", IN_PROJECT),
    ),
    "one Redis database for strangers": Case(
        PROJECT,
        f"    {WORKER}\n",
        f"    {WORKER}\n    broker: {{vhost: service}}\n",
        ("one redis_database (0)", IN_PROJECT),
    ),
    "two projects with one name": Case(
        PROJECT, "name: service", "name: producer", ("django_projects: producer: a name is used twice,", IN_PROJECT)
    ),
    "name of the system": Case(
        PROJECT, "name: service", "name: root", ("django_projects: root: ", "name of the system's", IN_PROJECT)
    ),
    "name that is none": Case(
        PROJECT, "name: service", "name: My-App", ("django_projects: My-App: ", "lower-case", IN_PROJECT)
    ),
    "project that runs nowhere": Case(
        PROJECT, f"    {WORKER}\n", "", ("service has neither web nor worker", IN_PROJECT)
    ),
    # -- secrets ------------------------------------------------------------------------------------------------------
    "empty passwords": Case(
        SECRETS,
        "",
        'broker_password: ""\nmonitor_password:\nredis_internal_password: ""\n',
        (": broker_password, monitor_password, redis_internal_password.", IN_SECRETS),
    ),
    "password with a line break": Case(
        SECRETS, "", "monitor_password: |\n  of a block\n", ("line break: monitor_password.", IN_SECRETS)
    ),
    "project without a password": Case(
        SECRETS, "", "database_passwords: {producer: x}\n", ("database_passwords.service", IN_SECRETS)
    ),
    # -- inputs of roles ----------------------------------------------------------------------------------------------
    "input of the wrong kind": Case(
        "group_vars/web.yml", "", "web_sandbox: 7\n", ("web_sandbox", "inventories/group_vars/<group>.yml")
    ),
    "unknown key in an input": Case(
        PROJECT,
        "broker_extra_users: []",
        "broker_extra_users: [{name: x, password: y, tag: z}]",
        ("rabbitmq_users", "tag", "inventories/group_vars/<group>.yml"),
    ),
}
GOOD = {"onebox": ONEBOX, "quintet": TOPOLOGY}


def site(directory, case=None):
    """A copy of the inventories, with what is wrong in the case."""
    shutil.copytree(ROOT / "inventories", directory / "inventories", ignore=shutil.ignore_patterns(".secrets"))
    (directory / "inventories" / SITE).write_text(OVERLAY)
    (directory / "app").symlink_to(ROOT / "app")
    (directory / "bare").mkdir()
    (directory / "bare" / "manage.py").touch()
    if case:
        path = directory / "inventories" / case.file
        text = path.read_text()
        assert text.count(case.old) == 1 or not case.old, f"{case.file} has no single {case.old!r}"
        path.write_text(text.replace(case.old, case.new) if case.old else text + case.new)
    return directory / "inventories"


def ansible(inventories, topology, playbook):
    """Run a playbook on a site; its exit status and its words, without the line breaks."""
    status, words = play(
        *("-i", inventories / topology, "-i", inventories / SITE, ROOT / "playbooks" / playbook),
        ANSIBLE_TIMEOUT="1",
        QUINTET_STACK="fast-tests",
    )
    return status, " ".join(words.split())


@pytest.fixture
def run(tmp_path):
    """What came of a case, or of good input, by its name."""

    def run(name):
        if name in GOOD:
            status, words = ansible(site(tmp_path), GOOD[name], "check.yml")
        else:
            case = CASES[name]
            topology = case.file if case.file in (TOPOLOGY, HA) else case.topology
            status, words = ansible(site(tmp_path, case), topology, "deploy.yml")
        return Run(status, words.replace(str(tmp_path), "<site>"), sorted(tmp_path.glob(".cache/*/*")))

    return run


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused(run, name):
    status, words, _ = run(name)
    assert not [said for said in CASES[name].says if said not in words], words
    assert status != 0
    assert "PLAY [Check what was asked for]" in words
    assert "PLAY [Set up every host]" not in words, "hosts were touched"
    assert "UNREACHABLE" not in words, "a host was touched"


@pytest.mark.parametrize("name", GOOD)
def test_good_input_is_accepted_and_packed(run, name):
    status, words, packed = run(name)
    assert status == 0, words
    assert "failed=1" not in words
    assert [path.parent.name for path in packed] == ["producer", "service"]
    assert all(re.fullmatch(r"[0-9a-f]{12}\.tar", path.name) for path in packed)


def test_a_deploy_begins_with_the_check():
    """What the cases prove holds for a deploy of any later version."""
    first = (ROOT / "playbooks" / "deploy.yml").read_text().split("import_playbook:")[1].split()[0]
    assert first == "check.yml"
