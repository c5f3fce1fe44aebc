"""The environment's contract, what ugly passwords become, and what Django says about it all."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db.backends.postgresql.base import DatabaseWrapper

from producer.celery import app

from . import settings as places

PROJECT = Path(__file__).resolve().parent.parent
UGLY = "a/b%c:d@e#f?g&h+i'j\"k$l"
ENVIRONMENT = {
    "SECRET_KEY": "key",
    "ALLOWED_HOSTS": "a.example,b.example",
    "DATABASE_URL": f"postgresql://django:{quote(UGLY, safe='')}@db.example:5433/producer",
    "CACHE_URL": f"redis://:{quote(UGLY, safe='')}@redis.example:6379/1",
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
    return runpy.run_path(str(PROJECT / "producer" / "settings.py"))


@pytest.mark.usefixtures("environment")
def test_defaults():
    settings = load()
    assert settings["DEBUG"] is False
    assert settings["HTTPS"] is False
    assert settings["ALLOWED_HOSTS"] == ["a.example", "b.example"]
    assert settings["CSRF_TRUSTED_ORIGINS"] == []
    assert settings["ADMIN_PATH"] == "admin/"
    assert settings["RESULT_WAIT_SECONDS"] == 1
    assert settings["RESULTS_FILE"] == PROJECT / "state" / "results.txt"
    assert settings["STATIC_ROOT"] == str(PROJECT / "static")
    assert settings["CACHES"]["default"]["BACKEND"] == "django_redis.cache.RedisCache"


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
    for setting in ("SECRET_KEY", "ALLOWED_HOSTS", "DATABASES", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        assert loaded[setting] == expected[setting]
    assert loaded["CACHES"]["default"]["LOCATION"] == expected["CACHES"]["default"]["LOCATION"]


@pytest.mark.parametrize("key", ["$ome_key", "a\\$b$c", "$$", "\\$x"])
def test_a_dollar_means_nothing(environment, key):
    environment.setenv("SECRET_KEY", key)
    assert load()["SECRET_KEY"] == key


@pytest.mark.usefixtures("environment")
def test_the_database_gets_the_ugly_password():
    database = load()["DATABASES"]["default"]
    parameters = DatabaseWrapper({**database, "TIME_ZONE": None}).get_connection_params()
    assert (parameters["user"], parameters["password"]) == ("django", UGLY)
    assert (parameters["host"], parameters["port"], parameters["dbname"]) == ("db.example", 5433, "producer")
    assert parameters["connect_timeout"] == 3
    assert "statement_timeout" in parameters["options"]


def test_the_broker_gets_the_ugly_password():
    broker = app.connection_for_write(ENVIRONMENT["CELERY_BROKER_URL"]).info()
    assert (broker["userid"], broker["password"]) == ("django", UGLY)
    assert (broker["hostname"], broker["port"], broker["virtual_host"]) == ("mq.example", 5672, "rabbit")


def test_redis_gets_the_ugly_password(use_redis):
    redis = app.backend.client
    redis.execute_command("ACL", "SETUSER", "ugly", "on", f">{UGLY}", "~*", "&*", "+@all")
    try:
        use_redis(f"{places.HOST}:{places.REDIS_PORT}", user="ugly", password=quote(UGLY, safe=""))
        assert app.backend.client.acl_whoami() == "ugly"
        cache.set("key", 1)
        assert cache.get("key") == 1
        assert app.backend.client is not redis
    finally:
        redis.execute_command("ACL", "DELUSER", "ugly")


def test_https_makes_everything_strict(environment):
    environment.setenv("HTTPS", "true")
    settings = load()
    assert settings["SESSION_COOKIE_SECURE"]
    assert settings["CSRF_COOKIE_SECURE"]
    assert settings["SECURE_HSTS_SECONDS"] >= 63072000
    assert settings["SECURE_SSL_REDIRECT"]
    # Who redirects is the site's to say.
    environment.setenv("SSL_REDIRECT", "false")
    assert not load()["SECURE_SSL_REDIRECT"]


def test_without_https_nobody_is_sent_to_it(environment):
    environment.setenv("SSL_REDIRECT", "true")
    assert not load()["SECURE_SSL_REDIRECT"]


@pytest.mark.parametrize("name", ["SECRET_KEY_FALLBACKS", "SECRET_KEY_FALLBACKS_FILE"])
def test_earlier_keys_are_a_list(environment, tmp_path, name):
    assert load()["SECRET_KEY_FALLBACKS"] == []
    for text, keys in (("", []), (",", []), ("$one", ["$one"]), ("$one,t\\$o,", ["$one", "t\\$o"])):
        (tmp_path / "keys").write_text(text + "\n")
        environment.setenv(name, str(tmp_path / "keys") if name.endswith("_FILE") else text)
        assert load()["SECRET_KEY_FALLBACKS"] == keys


@pytest.mark.parametrize("path", ["back/office", "/back/office", "back/office/"])
def test_the_admin_sites_path_is_one_however_it_is_written(environment, path):
    environment.setenv("ADMIN_PATH", path)
    assert load()["ADMIN_PATH"] == "back/office/"


@pytest.mark.parametrize("path", ["", "/", "a b", "<path:x>", "a//b"])
def test_the_admin_site_is_at_a_path(environment, path):
    environment.setenv("ADMIN_PATH", path)
    with pytest.raises(ImproperlyConfigured, match=r"\bADMIN_PATH\b"):
        load()


def test_a_task_outlives_its_worker():
    assert app.conf.task_acks_late
    assert app.conf.task_reject_on_worker_lost
    assert not app.conf.task_acks_on_failure
    assert not app.conf.task_acks_on_timeout


def test_a_worker_waits_for_its_broker_for_ever():
    assert app.conf.broker_connection_retry
    assert app.conf.broker_connection_retry_on_startup
    assert app.conf.broker_connection_max_retries is None
    assert app.conf.broker_heartbeat == 10
    assert "read_timeout" not in app.conf.broker_transport_options


@pytest.mark.usefixtures("environment")
def test_times_fit_together():
    loaded = load()
    assert loaded["CELERY_TASK_SOFT_TIME_LIMIT"] < loaded["CELERY_TASK_TIME_LIMIT"]
    assert loaded["SWEEP_SECONDS"] < loaded["RESEND_SECONDS"]


def test_nothing_to_complain_about():
    call_command("check", fail_level="WARNING")


@pytest.mark.parametrize("https", ["true", "false"])
def test_nothing_to_complain_about_where_it_is_deployed(environment, tmp_path, https):
    environment.setenv("HTTPS", https)
    environment.setenv("SECRET_KEY", "made-of-random-letters-as-a-deploy-makes-one-0123456789")
    environment.setenv("STATE_DIRECTORY", str(tmp_path))
    command = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
    said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr


def test_the_results_files_directory_must_exist(settings, tmp_path):
    settings.RESULTS_FILE = tmp_path / "nowhere" / "results.txt"
    with pytest.raises(SystemCheckError, match=r"jobs\.E001.*nowhere does not exist"):
        call_command("check")


def test_the_results_files_directory_must_be_writable(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, who may run the tests, may write anywhere
    with pytest.raises(SystemCheckError, match=r"jobs\.E002.*is not writable"):
        call_command("check")


@pytest.mark.django_db
def test_migrations_are_complete():
    call_command("makemigrations", check=True, dry_run=True)


def test_static_files_carry_their_digest(settings, tmp_path):
    settings.STATIC_ROOT = str(tmp_path)
    backend = runpy.run_path(str(PROJECT / "producer" / "settings.py"))["STORAGES"]["staticfiles"]
    settings.STORAGES = settings.STORAGES | {"staticfiles": backend}
    call_command("collectstatic", interactive=False, verbosity=0)
    assert [file.name for file in tmp_path.glob("jobs/quintet.*.css") if re.search(r"\.[0-9a-f]{12}\.css$", file.name)]
