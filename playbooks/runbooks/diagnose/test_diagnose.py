"""The archive has what one needs of each host, and no secret, wherever one stood."""

import base64
import json
import stat
import tarfile
from urllib.parse import quote

import pytest

from verify import FIRST, TOPOLOGY, contract, failure, node, playbook

RUNBOOK = "runbooks/diagnose/playbook.yml"
NAMES = ("broker_password", "broker_cookie", "backup_passphrase", "monitor_password", "redis_internal_password")
BY_NAME = ("broker_passwords", "database_passwords", "redis_passwords", "django_secret_keys")
KNOWN = [contract(name) for name in NAMES] + [one for name in BY_NAME for one in contract(name).values()]
# Of which nobody knows that they are secret but by the words around them.
PLANTED = {
    "broker=amqp://user:planted-in-a-url@host/vhost": "planted-in-a-url",
    "API_TOKEN=planted-token": "planted-token",
    '{"password": "planted in json"}': "planted in json",
    "Authorization: Basic cGxhbnRlZDpiYXNpYw==": "cGxhbnRlZDpiYXNpYw==",
    "-----BEGIN PRIVATE KEY-----\nplantedkeyplantedkey\n-----END PRIVATE KEY-----": "plantedkeyplantedkey",
}
NOTE = "/etc/quintet/note"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The path of an archive that was made while secrets stood in a journal and in a file, and its texts by name."""
    machine = node(FIRST)
    lines = [*PLANTED, *(f"somebody said {one}" for secret in KNOWN for one in (secret, quote(secret, safe="")))]
    lines += [f"coded {base64.b64encode(secret.encode()).decode()}" for secret in KNOWN]
    machine.check_output(f"install -d {NOTE.rpartition('/')[0]} && printf %%s %s >{NOTE}", "\n".join(lines) + "\n")
    path = tmp_path_factory.mktemp("diagnose") / "found" / "archive.tar.gz"
    try:
        machine.check_output(f"systemd-cat --identifier planted cat {NOTE}")
        result = playbook(RUNBOOK, "-vv", extra={"diagnose_to": str(path)})
    finally:
        machine.check_output(f"rm {NOTE}")
    assert result.returncode == 0, failure(result)
    assert str(path) in result.stdout
    assert [secret for secret in [*PLANTED.values(), *KNOWN] if secret in result.stdout] == []
    with tarfile.open(path) as opened:
        texts = {member.name.partition("/")[2]: opened.extractfile(member).read().decode() for member in opened}
    return path, texts


def test_only_its_owner_reads_it(archive):
    path, _ = archive
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_it_has_what_one_needs(archive):
    _, texts = archive
    assert json.loads(texts["about.json"])["groups"]["web"] == TOPOLOGY.hosts("web")
    for host in TOPOLOGY.hosts():
        for name in ("units", "journal", "versions", "host", "network"):
            assert len(texts[f"{host}/{name}.txt"].splitlines()) > 3, (host, name)
    broker, database = TOPOLOGY.hosts("rabbitmq")[0], TOPOLOGY.hosts("postgresql")[0]
    assert "quorum" in texts[f"{broker}/rabbitmq.txt"]
    assert "PostgreSQL" in texts[f"{database}/postgresql.txt"] + texts.get(f"{database}/patroni.txt", "PostgreSQL")
    assert "proxy_pass" in texts[f"{FIRST}/files/etc/nginx/conf.d/quintet.conf"]
    assert "DATABASE_URL=" in texts[f"{FIRST}/environment.txt"]
    assert "gunicorn-producer.service" in texts[f"{FIRST}/units.txt"]


def test_no_secret_is_in_it(archive):
    _, texts = archive
    assert "somebody said [removed]" in texts[f"{FIRST}/journal.txt"], "what was planted is not where it was looked for"
    assert "somebody said [removed]" in texts[f"{FIRST}/files{NOTE}"]
    wanted = {form for secret in KNOWN for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}
    wanted |= {base64.b64encode(secret.encode()).decode() for secret in KNOWN} | set(PLANTED.values())
    assert not {name for name, text in texts.items() if any(secret in text for secret in wanted)}
    assert not [name for name, text in texts.items() if "PRIVATE KEY" in text]
