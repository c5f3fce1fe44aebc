"""The environment's contract, and the settings on which no lost task depends."""

import os
import runpy
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db.backends.postgresql.base import DatabaseWrapper

from service.celery import app

PROJECT = Path(__file__).resolve().parent.parent
UGLY = "a/b%c:d@e#f?g&h+i'j\"k$l"
ENVIRONMENT = {
    "SECRET_KEY": "key",
    "DATABASE_URL": f"postgresql://django:{quote(UGLY, safe='')}@db.example:5433/service",
    "CELERY_BROKER_URL": f"amqp://django:{quote(UGLY, safe='')}@mq.example:5672/rabbit",
    "CELERY_RESULT_BACKEND": f"redis://:{quote(UGLY, safe='')}@redis.example:6379/0",
}


@pytest.fixture
def environment(monkeypatch):
    """Exactly the variables that are required."""
    for name in list(os.environ):
        monkeypatch.delenv(name)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def load():
    return runpy.run_path(str(PROJECT / "service" / "settings.py"))


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_missing_variable_is_named(environment, name):
    environment.delenv(name)
    with pytest.raises(ImproperlyConfigured, match=rf"\b{name}\b"):
        load()


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_variable_can_be_a_file(environment, tmp_path, name):
    expected = load()
    (tmp_path / "secret").write_text(ENVIRONMENT[name] + "\n")
    environment.delenv(name)
    environment.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    loaded = load()
    for setting in ("SECRET_KEY", "DATABASES", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        assert loaded[setting] == expected[setting]


@pytest.mark.parametrize("key", ["$ome_key", "a\\$b$c"])
def test_a_dollar_means_nothing(environment, key):
    environment.setenv("SECRET_KEY", key)
    assert load()["SECRET_KEY"] == key


@pytest.mark.parametrize("name", ["SECRET_KEY_FALLBACKS", "SECRET_KEY_FALLBACKS_FILE"])
def test_earlier_keys_are_a_list(environment, tmp_path, name):
    assert load()["SECRET_KEY_FALLBACKS"] == []
    for text, keys in (("", []), (",", []), ("$one", ["$one"]), ("$one,t\\$o,", ["$one", "t\\$o"])):
        (tmp_path / "keys").write_text(text + "\n")
        environment.setenv(name, str(tmp_path / "keys") if name.endswith("_FILE") else text)
        assert load()["SECRET_KEY_FALLBACKS"] == keys


def test_what_an_earlier_key_signed_is_valid_as_long_as_that_is_a_fallback(environment, settings):
    settings.SECRET_KEY = "old"
    signed = signing.dumps("text")
    settings.SECRET_KEY = "new"
    environment.setenv("SECRET_KEY_FALLBACKS", "older,old")
    settings.SECRET_KEY_FALLBACKS = load()["SECRET_KEY_FALLBACKS"]
    assert signing.loads(signed) == "text"
    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(signing.BadSignature):
        signing.loads(signed)


@pytest.mark.usefixtures("environment")
def test_every_tier_gets_the_ugly_password(monkeypatch):
    database = load()["DATABASES"]["default"]
    assert DatabaseWrapper({**database, "TIME_ZONE": None}).get_connection_params()["password"] == UGLY
    assert app.connection_for_write(ENVIRONMENT["CELERY_BROKER_URL"]).info()["password"] == UGLY
    assert app._get_backend().client.connection_pool.connection_kwargs["password"] == UGLY


def test_a_task_outlives_its_worker():
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert app.conf.worker_prefetch_multiplier == 1


def test_a_worker_waits_for_its_broker_for_ever():
    assert app.conf.broker_connection_retry
    assert app.conf.broker_connection_retry_on_startup
    assert app.conf.broker_connection_max_retries is None
    assert "read_timeout" not in app.conf.broker_transport_options


def test_nothing_to_complain_about():
    call_command("check", fail_level="WARNING")


@pytest.mark.parametrize("https", ["true", "false"])
def test_nothing_to_complain_about_where_it_is_deployed(environment, https):
    environment.setenv("HTTPS", https)
    environment.setenv("SECRET_KEY", "made-of-random-letters-as-a-deploy-makes-one-0123456789")
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


@pytest.mark.django_db
def test_migrations_are_complete():
    call_command("makemigrations", check=True, dry_run=True)
