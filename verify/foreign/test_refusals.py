"""What is wrong with a project is said in its own words, and what ran before runs on."""

import shutil

import pytest

from tests.topology import ROOT
from verify import contract, deploy, eventually, node
from verify.foreign import APP_HOSTS, FIRST, PROJECTS, ask, sign

HARDCODED = ROOT / PROJECTS["guestbook"]["source"]["path"]
MIGRATION = """
from django.db import migrations
def fail(apps, schema_editor):
    raise ValueError("the data is not as we thought")
class Migration(migrations.Migration):
    dependencies = [("guestbook", "0001_initial")]
    operations = [migrations.RunPython(fail)]
"""
SICK = "def index(request):\n    raise RuntimeError('it hurts')\n\n\ndef healthy(request):"

# What is changed in the project's files (old, new), what in its entry, and what the deploy must say.
WRONG = {
    "settings module": ({}, {"settings_module": "hard.setings"}, ["No module named 'hard.setings'", "settings_module"]),
    "dependency": (
        {"guestbook/views.py": ("from django import forms", "import no_such_thing\nfrom django import forms")},
        {},
        ["No module named 'no_such_thing'", "dependencies"],
    ),
    "migration": ({"guestbook/migrations/0002_fail.py": ("", MIGRATION)}, {}, ["the data is not as we thought"]),
    "health": (
        {"guestbook/views.py": ("def index(request):", SICK)},
        {"web": PROJECTS["guestbook"]["web"] | {"health": {"seconds": 4}}},
        ["guestbook", "is not healthy: /: status 500. It says:"],
    ),
    "secret": ({}, {"secrets": {"KEY": ""}}, ["guestbook: secrets.KEY is empty"]),
}


def current():
    """The release that is current on each host, and the processes that run it."""
    state = {}
    for host in APP_HOSTS:
        unit = "gunicorn-guestbook" if host == FIRST else "celery-guestbook"
        started = node(host).check_output("systemctl show --value --property ExecMainStartTimestamp %s", unit)
        state[host] = (node(host).check_output("readlink /opt/quintet/guestbook/current"), started)
    return state


@pytest.mark.parametrize("wrong", WRONG)
def test_a_release_that_is_wrong_does_not_become_current(tmp_path, wrong):
    files, entry, says = WRONG[wrong]
    source = tmp_path / "guestbook"
    shutil.copytree(HARDCODED, source)
    for name, (old, new) in files.items():
        path = source / name
        text = path.read_text() if old else ""
        assert old in text
        path.write_text(text.replace(old, new) if old else new)
    entry = {"source": {"path": str(source)}} | entry
    projects = [
        project | entry if project["name"] == "guestbook" else project for project in contract("django_projects")
    ]
    before = current()
    with pytest.raises(AssertionError) as refused:
        deploy(extra={"django_projects": projects})
    for words in says:
        assert words in str(refused.value)
    assert current() == before
    assert ask("guestbook", sign(wrong)).json()["text"] == wrong


def test_after_all_that_a_restart_changes_nothing():
    """What was refused has left nothing that a service would read when it starts again."""
    for host in APP_HOSTS:
        node(host).check_output("systemctl restart %s-guestbook", "gunicorn" if host == FIRST else "celery")
    path = sign("restarted")
    assert eventually(lambda: ask("guestbook", path).json()["shouted"]) == "RESTARTED"
    assert deploy()[0] <= 2  # the next environment on each host is that of the last good entry again
    assert deploy()[0] == 0
