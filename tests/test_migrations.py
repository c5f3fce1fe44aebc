"""What playbooks/tasks/migrations.py says of a project's migrations, in a project with a database of its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.topology import ROOT

PROGRAM = (ROOT / "playbooks/tasks/migrations.py").read_text()
SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
FIRST = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = []
    operations = [
        migrations.CreateModel("Item", [
            ("id", models.BigAutoField(primary_key=True)),
            ("name", models.CharField(max_length=10)),
            ("note", models.TextField(null=True)),
        ]),
    ]
"""
NEXT = """
import django.db.models.functions
from django.db import migrations, models

def forth(apps, editor):
    pass

class Migration(migrations.Migration):
    dependencies = [("shop", "{before}")]
    operations = [{operations}]
"""


def project(directory, *following):
    """A project whose app has a first migration and these operations after it, a migration each."""
    (directory / "shop/migrations").mkdir(parents=True, exist_ok=True)
    (directory / "theirs.py").write_text(SETTINGS)
    for path in ("shop/__init__.py", "shop/migrations/__init__.py"):
        (directory / path).write_text("")
    (directory / "shop/migrations/0001_first.py").write_text(FIRST)
    names = ["0001_first", *(f"{number:04}_more" for number in range(2, len(following) + 2))]
    for path in (directory / "shop/migrations").glob("*_more.py"):
        path.unlink()
    for before, name, operations in zip(names, names[1:], following, strict=False):
        (directory / f"shop/migrations/{name}.py").write_text(NEXT.format(before=before, operations=operations))
    return directory


def python(directory, *arguments, program=None):
    """Run Python with the project's settings; gives what it prints."""
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "theirs", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=environment, input=program, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def migrate(directory, *arguments):
    python(directory, "-m", "django", "migrate", "--no-input", *arguments)


def ask(directory, word, *arguments):
    return json.loads(python(directory, "-", word, *arguments, program=PROGRAM))


def breaks(directory):
    """The operations of the plan after which another release may fail."""
    return [one for step in ask(directory, "plan")["steps"] for one in step["breaks"]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose first migration is applied."""
    directory = project(tmp_path_factory.mktemp("made"))
    migrate(directory)
    return directory


@pytest.fixture
def migrated(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "copy")


HARMLESS = [
    'migrations.AddField("item", "size", models.IntegerField(null=True))',
    'migrations.AddField("item", "size", models.IntegerField(db_default=1))',
    'migrations.AlterField("item", "name", models.CharField(max_length=20))',
    'migrations.AlterField("item", "name", models.CharField(max_length=10, null=True))',
    'migrations.AlterField("item", "name", models.CharField(max_length=10, help_text="Its name."))',
    'migrations.AddIndex("item", models.Index(fields=["name"], name="by_name"))',
    'migrations.AlterModelOptions("item", {"ordering": ["name"]})',
    'migrations.CreateModel("Box", [("id", models.BigAutoField(primary_key=True))]),'
    'migrations.AddField("box", "size", models.IntegerField(default=1)), migrations.RemoveField("box", "size")',
    'migrations.SeparateDatabaseAndState([], [migrations.RemoveField("item", "note")])',
]
BREAKING = [
    'migrations.AddField("item", "size", models.IntegerField(default=1))',
    'migrations.AlterField("item", "name", models.CharField(max_length=5))',
    'migrations.AlterField("item", "note", models.TextField())',
    'migrations.AlterField("item", "name", models.TextField())',
    'migrations.RemoveField("item", "note")',
    'migrations.RenameField("item", "note", "text")',
    'migrations.RenameModel("Item", "Thing")',
    'migrations.DeleteModel("Item")',
    'migrations.AlterUniqueTogether("item", {("name", "note")})',
    'migrations.AddConstraint("item", models.UniqueConstraint(fields=["name"], name="one"))',
    'migrations.RunSQL("SELECT 1", "SELECT 1")',
    "migrations.RunPython(forth, forth)",
    'migrations.SeparateDatabaseAndState([migrations.RemoveField("item", "note")])',
]


@pytest.mark.parametrize("operations", HARMLESS)
def test_what_only_adds_breaks_nothing(migrated, operations):
    assert ask(project(migrated, operations), "plan")["steps"] == [{"name": "shop.0002_more", "breaks": [], "lost": []}]


@pytest.mark.parametrize("operations", BREAKING)
def test_what_takes_away_or_cannot_be_known_is_found(migrated, operations):
    assert len(breaks(project(migrated, operations))) == 1


def test_a_plan_is_what_is_not_applied(tmp_path):
    assert [step["name"] for step in ask(project(tmp_path), "plan")["steps"]] == ["shop.0001_first"]
    migrate(tmp_path)
    assert ask(tmp_path, "plan") == {"steps": []}
    # A table that the plan makes itself is nobody's yet.
    assert breaks(project(tmp_path / "new", BREAKING[0])) == []


def test_what_an_older_release_does_not_know(tmp_path):
    known = ask(project(tmp_path), "known")["known"]
    assert known == [["shop", "0001_first"]]
    migrate(project(tmp_path, HARMLESS[0], "migrations.RunPython(forth)"))
    found = ask(tmp_path, "beyond", json.dumps(known))
    assert [(step["name"], bool(step["breaks"]), bool(step["lost"])) for step in found["steps"]] == [
        ("shop.0002_more", False, False),
        ("shop.0003_more", True, True),
    ]
    assert found["back"] == [["shop", "0001_first"]]
    assert ask(tmp_path, "beyond", json.dumps([]))["back"] == [["shop", "zero"]]
    assert ask(tmp_path, "beyond", json.dumps(ask(tmp_path, "known")["known"])) == {"steps": [], "back": []}


def test_a_project_without_a_database_has_none(tmp_path):
    project(tmp_path)
    (tmp_path / "theirs.py").write_text(SETTINGS.replace("backends.sqlite3", "backends.dummy"))
    assert ask(tmp_path, "plan")["steps"] == []
