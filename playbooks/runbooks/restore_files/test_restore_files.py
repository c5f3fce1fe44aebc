"""Files of the projects become what they were when a backup was made, and all, after all is lost."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.topology import ROOT
from verify import FIRST, TOPOLOGY, container, contract, deploy, eventually, failure, manage, node, playbook
from verify.tiers import KEPT_ELSEWHERE, database_host, sql, states

RUNBOOK = "runbooks/restore_files/playbook.yml"
BACKUP, RESTORE = "runbooks/backup/playbook.yml", "runbooks/restore/playbook.yml"
STACK, SECRETS = contract("stack"), Path(contract("secrets_dir"))
[REPOSITORY] = contract("repository_hosts")
JOBS = "SELECT id FROM jobs_job WHERE state = 'done'"
HOSTS = [*TOPOLOGY.hosts("web"), *TOPOLOGY.hosts("worker")]
# Of each kind of host a project that keeps something there.
KEPT = {host: f"/var/lib/{'producer' if host in TOPOLOGY.hosts('web') else 'service'}" for host in HOSTS}


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """The file of a backup, which knows of `kept` on each host."""
    place = tmp_path_factory.mktemp("restore-files")
    for host, directory in KEPT.items():
        node(host).check_output(f"install -d {directory}/media; echo {host} >{directory}/media/kept")
    result = playbook(BACKUP, extra={"backup_to": str(place)})
    assert result.returncode == 0, failure(result)
    [path] = place.iterdir()
    yield str(path)
    for host, directory in KEPT.items():
        node(host).check_output(f"rm -rf {directory}/media")


def restore_files(**asked):
    return playbook(RUNBOOK, extra={"confirm": STACK} | asked)


def owners(directory):
    return f"find {directory} -printf '%p %u %g %m\\n' | grep -v /newer | sort"


def test_what_was_there_is_there_again(sealed):
    before = {host: node(host).check_output(owners(KEPT[host])) for host in HOSTS}
    for host, directory in KEPT.items():
        node(host).check_output(f"mv {directory}/media/kept {directory}/media/newer; echo >{directory}/media/newer")
        node(host).check_output(f"chmod 0700 {directory}")
    result = restore_files(restore_files_from=sealed)
    assert result.returncode == 0, failure(result)
    for host, directory in KEPT.items():
        assert node(host).file(f"{directory}/media/kept").content_string.strip() == host
        assert node(host).file(f"{directory}/media/newer").exists
        assert node(host).check_output(owners(directory)) == before[host]
        assert node(host).run("ls /var/tmp | grep ^quintet").stdout == ""
        assert states(host) == {"active"}
    assert not Path(contract("secrets_open")).exists()
    assert manage(FIRST, "producer", "roundtrip")["ok"]
    assert deploy()[0] == 0


def test_who_has_another_passphrase_changes_nothing(sealed):
    result = restore_files(restore_files_from=sealed, backup_passphrase="another passphrase")
    assert result.returncode != 0
    assert "backup_passphrase is not the one with which it was made" in " ".join(result.stdout.split())
    assert "Have people wait" not in result.stdout


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({}, "Say -e restore_files_from=..., a file that the runbook backup made."),
        ({"restore_files_from": "/nowhere"}, "There is none at /nowhere."),
        ({"restore_files_from": __file__, "confirm": "yes"}, f"say -e confirm={STACK}"),
    ],
)
def test_what_cannot_be_is_refused(asked, says):
    result = restore_files(**asked)
    assert result.returncode != 0
    assert says in " ".join(result.stdout.split())


def ran(path, **more):
    """What a playbook says that ends well."""
    result = playbook(path, **more)
    assert result.returncode == 0, failure(result)
    return result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not KEPT_ELSEWHERE, reason="the repository would be lost, too: molecule/ha runs it")
def test_after_all_is_lost_but_the_repository_the_file_and_the_passphrase(sealed, tmp_path):
    """The hosts, and on this machine the secrets."""
    for _ in range(5):
        assert manage(FIRST, "producer", "roundtrip")["ok"]
    jobs = set(sql(database_host(), JOBS, "producer").splitlines())
    file = sql(database_host(), "SELECT pg_walfile_name(pg_switch_wal())")
    eventually(lambda: sql(database_host(), "SELECT last_archived_wal FROM pg_stat_archiver") >= file, 20)
    passphrase, kept = contract("backup_passphrase"), tmp_path / "backup_passphrase"
    kept.write_text(passphrase)
    for host in TOPOLOGY.hosts():
        if host != REPOSITORY:
            container(host).remove(force=True, v=True)
    shutil.rmtree(SECRETS)

    page = (ROOT / "playbooks/runbooks/backup/README.md").read_text()
    [line] = re.findall(r"^openssl enc -d .*$", page, re.MULTILINE)
    subprocess.run(line.replace("FILE", sealed), shell=True, cwd=tmp_path, check=True)
    shutil.copytree(tmp_path / "secrets", SECRETS, dirs_exist_ok=True)
    assert contract("backup_passphrase") == passphrase
    ran("nodes/create.yml")
    deployed = playbook("deploy.yml")
    assert deployed.returncode != 0
    assert "go on with the runbook `restore`, and deploy again" in " ".join(deployed.stdout.split())
    ran(RESTORE, extra={"restore_to": "latest", "confirm": STACK})
    deploy()
    ran(RUNBOOK, extra={"restore_files_from": sealed, "confirm": STACK})

    assert jobs <= set(sql(database_host(), JOBS, "producer").splitlines())
    for host, directory in KEPT.items():
        assert node(host).file(f"{directory}/media/kept").content_string.strip() == host
    assert manage(FIRST, "producer", "roundtrip")["ok"]
    assert deploy()[0] == 0
