"""A backup is made, encrypted; what is not in PostgreSQL is in one file, for who has the passphrase."""

import json
import stat
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from verify import FIRST, TOPOLOGY, contract, deploy, eventually, failure, manage, node, playbook

RUNBOOK = "runbooks/backup/playbook.yml"
[HOST] = contract("repository_hosts")
STANZA = contract("pgbackrest_stanza", HOST)
# Where all of it is in the clear for a moment.
CLEAR = Path(contract("secrets_open"))
OPEN = "openssl enc -d -aes-256-cbc -pbkdf2 -iter 600000 -pass stdin -in"


def backups():
    """What the repository has, oldest first."""
    said = node(HOST).check_output(f"su postgres -c 'pgbackrest --stanza={STANZA} --output=json info'")
    return json.loads(said)[0]["backup"]


def opened(path, passphrase, to):
    """Whether the file at path could be opened with this passphrase; what is in it is below `to` then."""
    with (to / "all.tar").open("wb") as file:
        done = subprocess.run([*OPEN.split(), path], input=passphrase.encode(), stdout=file, stderr=subprocess.PIPE)
    # Of wrong passphrases one in 256 ends in what looks like the end of a text.
    if done.returncode or not tarfile.is_tarfile(to / "all.tar"):
        return False
    subprocess.run(["tar", "--extract", "--file", to / "all.tar", "--directory", to], check=True)
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Where the sealed file is, and the backups before and after. A run before it was killed."""
    CLEAR.mkdir(exist_ok=True)
    (CLEAR / "left").write_text("in the clear")
    manage(FIRST, "producer", "roundtrip")
    place, before = tmp_path_factory.mktemp("backup") / "kept", backups()
    result = playbook(RUNBOOK, "-vv", extra={"backup_to": str(place), "backup_type": "full"})
    assert result.returncode == 0, failure(result)
    assert contract("backup_passphrase") not in result.stdout
    [path] = place.iterdir()
    assert str(path) in result.stdout
    return path, before, backups()


def test_there_is_one_more_and_no_error_in_it(made):
    _, before, after = made
    new = [one for one in after if one["label"] not in {old["label"] for old in before}]
    assert [(one["type"], one["error"]) for one in new] == [("full", False)]


@pytest.mark.usefixtures("made")
def test_without_a_type_it_is_what_changed_since(tmp_path):
    result = playbook(RUNBOOK, extra={"backup_to": str(tmp_path)})
    assert result.returncode == 0, failure(result)
    assert backups()[-1]["type"] == "diff"


def test_more_are_made_by_themselves():
    timers = node(HOST).check_output("systemctl list-timers --no-legend 'quintet-backup-*'").splitlines()
    assert {line.split()[-1] for line in timers} == {f"quintet-backup@{one}.service" for one in ("full", "diff")}
    assert not [line for line in timers if line.startswith("-")], "one is never due"


@pytest.mark.usefixtures("made")
def test_the_repository_is_encrypted():
    clear = """for path; do [ "$(head -c 8 "$path")" = Salted__ ] || echo "$path"; done"""
    look = f"find /var/lib/pgbackrest -type f -exec sh -c '{clear}' sh {{}} +"
    assert int(node(HOST).check_output("find /var/lib/pgbackrest -type f | wc -l")) > 20
    assert node(HOST).check_output(look) == ""


def test_the_rest_is_in_one_file_that_its_owner_opens(made, tmp_path):
    path, _, _ = made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not opened(path, "another passphrase", tmp_path)
    assert opened(path, contract("backup_passphrase"), tmp_path)
    assert (tmp_path / "secrets/broker_password").read_text().strip() == contract("broker_password")
    names = {}
    # Or unpacking would change the directory in which it is done.
    with tarfile.open(tmp_path / "all.tar") as archive:
        assert not {".", "left"} & set(archive.getnames())
    for host in TOPOLOGY.hosts():
        with tarfile.open(tmp_path / f"{host}.tar.gz") as archive:
            names[host] = {member.name: member for member in archive}
            if "definitions.json" in names[host]:
                definitions = json.load(archive.extractfile("definitions.json"))
    assert {user["name"] for user in definitions["users"]} >= {"producer", "service", contract("broker_user")}
    assert any("results.txt" in name for host in TOPOLOGY.hosts("worker") for name in names[host])
    assert all("packages.txt" in found and "." not in found for found in names.values())


@pytest.fixture
def under_way():
    """A backup that takes its time, as one of a large database does; it, and what waits for it, end well after all."""
    unit, host = "quintet-backup@diff.service", node(HOST)
    host.check_output("systemctl start --no-block %s", unit)
    eventually(lambda: host.file(f"/run/postgresql/{STANZA}-backup-1.lock").exists)
    host.check_output("systemctl kill --signal=STOP %s", unit)
    yield
    host.check_output("systemctl kill --signal=CONT %s", unit)
    eventually(lambda: host.run("systemctl is-active 'quintet-backup@*.service'").stdout.split() in ([], ["inactive"]))
    assert host.check_output("systemctl list-units --failed --no-legend 'quintet-backup@*'") == ""


@pytest.mark.usefixtures("made", "under_way")
def test_nothing_is_left_and_a_deploy_has_nothing_to_do_while_the_next_is_made():
    assert not CLEAR.exists()
    assert {node(host).run("ls /var/tmp | grep ^quintet").stdout for host in TOPOLOGY.hosts()} == {""}
    assert deploy(limit=HOST)[0] == 0


@pytest.mark.usefixtures("made", "under_way")
def test_two_are_made_one_after_the_other():
    node(HOST).check_output("systemctl start --no-block quintet-backup@full.service")
    time.sleep(2)
    assert node(HOST).run("systemctl is-active quintet-backup@full.service").stdout.strip() == "activating"


def test_one_that_failed_is_tried_again():
    unit, host = "quintet-backup@diff.service", node(HOST)
    tell = f"su postgres -c 'pgbackrest --stanza={STANZA} %s'"
    host.check_output(tell % "stop")
    try:
        assert host.run("systemctl start %s", unit).rc
    finally:
        host.check_output(tell % "start")
    assert host.check_output("systemctl show --property SubState --value %s", unit).startswith("auto-restart")
    # Whoever does not want to wait does it himself.
    host.check_output("systemctl start %s", unit)
    assert host.run("systemctl is-active %s", unit).stdout.strip() == "inactive"


def test_what_it_does_not_know_is_refused():
    result = playbook(RUNBOOK, extra={"backup_type": "total"})
    assert result.returncode != 0
    assert "It is one of full, diff, incr." in " ".join(result.stdout.split())
