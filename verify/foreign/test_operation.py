"""Foreign projects in use: units, schedule, management commands, what outlives a restart and a release."""

import shutil
import time

import pytest

from tests.topology import ROOT
from verify import TOPOLOGY, contract, deploy, eventually, exposure, node
from verify.foreign import APP_HOSTS, FIRST, PROJECTS, WORKER, ask, sign, visits

UNITS = {
    FIRST: [f"gunicorn-{name}.service" for name in PROJECTS],
    WORKER: [*(f"celery-{name}.service" for name in PROJECTS), "celery-shop-mail.service", "beat-shop.service"],
}


@pytest.mark.parametrize("host", UNITS)
def test_units_run_and_none_has_failed(host):
    machine = node(host)
    for unit in UNITS[host]:
        assert machine.check_output("systemctl is-active %s", unit) == "active"
        assert machine.check_output("systemctl show --value --property NRestarts %s", unit) == "0"
    assert machine.check_output("systemctl --failed --no-legend") == ""


@pytest.mark.parametrize("host", UNITS)
def test_units_of_projects_have_few_rights(host):
    assert {unit: found for unit in UNITS[host] if (found := exposure(host, unit)) > 2.0} == {}


def test_beat_runs_once_and_ticks():
    count = r"cat /proc/[0-9]*/cmdline | tr '\0' '\n' | grep --count --line-regexp '[b]eat'"
    beats = {host: node(host).run(count).stdout.strip() for host in APP_HOSTS}
    assert beats == {host: "1" if host == WORKER else "0" for host in APP_HOSTS}
    since = time.time()
    time.sleep(20)
    ticks = [host for at, host in ask("shop", "/shop/ticks/").json()["ticks"] if at > since]
    # Every two seconds; from two schedulers there would be twice as many.
    assert 7 <= len(ticks) <= 12
    assert set(ticks) == {WORKER}


def test_beat_keeps_its_schedule_in_the_database():
    code = "from django_celery_beat.models import PeriodicTask; print(PeriodicTask.objects.filter(name='tick').count())"
    assert node(FIRST).check_output("quintet-manage shop shell -c %s", code).splitlines()[-1] == "1"


# pretalx's own check takes every broker for Redis.
@pytest.mark.parametrize("project", ["guestbook", "shop", "ledger"])
@pytest.mark.parametrize("host", APP_HOSTS)
def test_check_finds_nothing(host, project):
    result = node(host).run("quintet-manage %s check", project)
    assert result.rc == 0, result.stdout + result.stderr
    assert "no issues" in result.stdout


@pytest.mark.parametrize(
    ("project", "command"),
    [(name, command) for name, project in PROJECTS.items() for command in project["commands"]["never"]],
)
def test_a_command_that_must_not_run_is_refused(project, command):
    result = node(FIRST).run("quintet-manage %s %s", project, command)
    assert result.rc == 77
    assert f"{command} must not run here" in result.stderr


def test_refused_commands_did_nothing():
    path = sign("kept")
    node(FIRST).run("quintet-manage guestbook flush --no-input")
    assert ask("guestbook", path).json()["text"] == "kept"


@pytest.mark.parametrize("host", TOPOLOGY.hosts())
def test_what_compiled_is_gone(host):
    machine = node(host)
    for name in PROJECTS["ledger"]["dependencies"]["build_packages"]:
        assert not machine.package(name).is_installed
    assert not machine.exists("cc")
    assert machine.package("libpq5").is_installed or host not in APP_HOSTS


def test_a_restart_loses_nothing():
    path = sign("restart", ("restart.txt", b"restart"))
    seen = visits()
    for host, units in UNITS.items():
        node(host).check_output("systemctl restart " + " ".join(units))
    entry = eventually(lambda: found if (found := ask("guestbook", path).json())["shouted"] else None)
    assert entry["text"] == "restart"
    assert ask("guestbook", entry["picture"]).content == b"restart"
    assert visits() > seen
    assert eventually(lambda: ask("ledger", "/").ok and ask("talks", "/orga/login/").ok and ask("shop", "/shop/").ok)


def test_a_release_keeps_rows_and_media(tmp_path):
    path = sign("release", ("release.txt", b"release"))
    entry = ask("guestbook", path).json()
    source = tmp_path / "hardcoded"
    shutil.copytree(ROOT / PROJECTS["guestbook"]["source"]["path"], source)
    page = source / "guestbook/templates/guestbook/index.html"
    page.write_text(page.read_text().replace("<h1>Guest book</h1>", "<h1>Second edition</h1>"))
    projects = contract("django_projects")
    changed = [
        project | {"source": {"path": str(source)}} if project["name"] == "guestbook" else project
        for project in projects
    ]
    try:
        deploy(extra={"django_projects": changed})
        assert "<h1>Second edition</h1>" in ask("guestbook", "/").text
        assert ask("guestbook", path).json()["text"] == "release"
        assert ask("guestbook", entry["picture"]).content == b"release"
    finally:
        deploy()
    assert "<h1>Guest book</h1>" in ask("guestbook", "/").text
    assert deploy()[0] == 0
