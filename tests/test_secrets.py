"""`playbooks/secrets.yml`: the generated secrets of a site in a vault, from which they are taken then."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.topology import ROOT

TOOLS = Path(sys.executable).parent
HOSTS = """\
all:
  vars:
    ansible_host: 192.0.2.1
    host_address: 192.0.2.1
    application_url: http://192.0.2.1
    management_url: https://192.0.2.1:15672
"""


@pytest.fixture
def site(tmp_path):
    """A copy of the inventories, and a site beside it; gives a function that runs a tool on them."""
    shutil.copytree(ROOT / "inventories", tmp_path / "inventories", ignore=shutil.ignore_patterns(".secrets"))
    (tmp_path / "site/group_vars/all").mkdir(parents=True)
    (tmp_path / "site/hosts.yml").write_text(HOSTS)
    (tmp_path / "password").write_text("open sesame")
    (tmp_path / "given.yml").write_text("secrets_vault_password: open sesame\n")

    def run(*command):
        sources = ("--inventory", tmp_path / "inventories/quintet.yml", "--inventory", tmp_path / "site/hosts.yml")
        environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(
            [TOOLS / command[0], *sources, *command[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return tmp_path, run


def test_the_generated_secrets_go_into_a_vault_and_come_from_it(site):
    directory, run = site
    vault = directory / "site/group_vars/all/vault.yml"
    command = ("ansible-playbook", ROOT / "playbooks/secrets.yml", "--extra-vars", f"@{directory}/given.yml")
    command += ("--extra-vars", f"secrets_vault={vault}", "--diff")
    made = run(*command)
    assert made.returncode == 0, made.stdout + made.stderr
    text = vault.read_text()
    assert text.startswith("$ANSIBLE_VAULT;")
    assert stat.S_IMODE(vault.stat().st_mode) == 0o600
    shown = subprocess.check_output(
        [TOOLS / "ansible-vault", "view", "--vault-password-file", directory / "password", vault]
    )
    secrets = yaml.safe_load(shown)
    password = secrets["redis_passwords"]["producer"]
    assert len(password) == 40
    assert password not in made.stdout + made.stderr

    assert run(*command, "--vault-password-file", directory / "password").returncode == 0
    assert vault.read_text() == text, "a vault that was there is another one now"

    shutil.rmtree(directory / "inventories/.secrets")
    seen = run(
        *("ansible-inventory", "--vault-password-file", directory / "password", "--host", "redis1"),
    )
    assert yaml.safe_load(seen.stdout)["redis_passwords"] == secrets["redis_passwords"]
