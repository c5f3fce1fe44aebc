"""What the runbook `upgrade` reads of apt, and what it refuses: nothing is asked of a host."""

import importlib.util

import pytest

from tests.topology import ROOT

SPEC = importlib.util.spec_from_file_location("look", ROOT / "playbooks/runbooks/upgrade/look.py")
look = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(look)

SIMULATED = """\
Reading package lists...
The following packages have been kept back:
  erlang-base
Inst libnew1 (1.0-1 Debian:13.2/stable [amd64])
Inst redis-server [5:8.0.2-3] (5:8.0.2-3+deb13u1 Debian-Security:13/stable-security [amd64]) []
Conf libnew1 (1.0-1 Debian:13.2/stable [amd64])
Remv nothing [1]
"""


def test_what_apt_would_change_is_read():
    found = look.parsed(SIMULATED)
    assert found == {"libnew1": ("", "1.0-1"), "redis-server": ("5:8.0.2-3", "5:8.0.2-3+deb13u1")}
    assert look.texts(found) == ["libnew1 nothing -> 1.0-1", "redis-server 5:8.0.2-3 -> 5:8.0.2-3+deb13u1"]


@pytest.mark.parametrize(
    ("upgrades", "flags", "says"),
    [
        ({"rabbitmq-server": ("4.0.5-8", "4.0.9-1")}, [], ""),
        ({"rabbitmq-server": ("4.0.5-8", "4.1.0-1")}, [], ""),
        ({"rabbitmq-server": ("3.13.7-1", "4.0.5-8")}, [], ""),
        ({"rabbitmq-server": ("4.0.5-8", "4.2.0-1")}, [], "skips a minor version"),
        ({"rabbitmq-server": ("3.12.1-1", "4.0.5-8")}, [], "skips a minor version"),
        ({"rabbitmq-server": ("4.1.0-1", "4.0.5-8")}, [], "skips a minor version"),
        ({"rabbitmq-server": ("4.0.5-8", "4.0.9-1")}, ["message_containers"], "flags message_containers are disabled"),
        # Nobody asks a broker that stays.
        ({"redis-server": ("5:8.0.2-3", "5:8.0.2-4")}, ["message_containers"], ""),
        ({"postgresql-17": ("17.6-0+deb13u1", "17.10-0+deb13u1")}, [], ""),
        ({"postgresql-17": ("17.6-0+deb13u1", "18.1-1")}, [], "another major version"),
        ({"postgresql-18": ("", "18.1-1")}, [], "another major version"),
        ({"postgresql-client-17": ("17.6-0+deb13u1", "17.10-0+deb13u1")}, [], ""),
    ],
)
def test_what_packages_cannot_do_is_refused(upgrades, flags, says):
    found = " ".join(look.refused(upgrades, lambda: flags))
    assert says in found if says else found == ""
