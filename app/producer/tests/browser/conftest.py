"""A browser, and behind the pages all that there is in real life: a relay, and the workers of both projects."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from django.db import connection
from playwright.sync_api import sync_playwright

from jobs.status import questions
from tests.conftest import PROJECT, Process, celery, until

SERVICE = PROJECT.parent / "service"
NAMES = ("chromium", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 390, "height": 844}
PATIENCE_MS = 15_000


def pytest_collection_modifyitems(items):
    """Say what is missing, once, instead of in each test."""
    here = Path(__file__).parent
    if any(here in item.path.parents for item in items) and not chromium():
        text = (
            "The browser tests need Chromium. As root, on Debian: apt-get install chromium. Or name one: CHROMIUM=..."
        )
        pytest.exit(text, returncode=4)


def chromium():
    """The browser's program."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Stack:
    """The processes behind the pages."""

    def __init__(self, directory, database):
        self._directory, self._database = directory, database
        self._count = 0
        self._results = directory / "results"
        self._results.mkdir()
        self._run_service("manage.py", "migrate", "--verbosity", "0")
        self.relay = Process(self._log(), "manage.py", "relay")
        self.home = celery(
            self._log(),
            *("producer", "results", "--hostname", "producer@worker1", "--concurrency", "1"),
            STATE_DIRECTORY=str(self._results),
        )
        self.start_service()
        until(lambda: self.home.has_logged(" ready."), 90)
        until(lambda: questions.ask_postgresql()["relays"])

    def start_service(self):
        """The worker of the other project, which has nothing of this one but names."""
        options = ("--workdir", str(SERVICE), "--app", "service", "worker", "--queues", "service")
        options += ("--hostname", "service:first@worker1", "--concurrency", "2", "--loglevel", "INFO")
        options += ("-O", "fair", "--without-gossip", "--without-mingle")
        # -P: this project's directory is not on its path.
        self.service = Process(self._log(), "-P", "-m", "celery", "--quiet", *options, **self._environment())
        until(lambda: self.service.has_logged(" ready."), 90)

    def stop_service(self):
        """As systemd stops it."""
        assert self.service.stop() == 0

    def close(self):
        """Be gone."""
        for process in (self.service, self.home, self.relay):
            process.kill()

    def _environment(self):
        return {"DJANGO_SETTINGS_MODULE": "service.settings", "DATABASE_URL": self._database}

    def _run_service(self, *command):
        subprocess.run([sys.executable, *command], cwd=SERVICE, env={**os.environ, **self._environment()}, check=True)

    def _log(self):
        self._count += 1
        return self._directory / f"log{self._count}"


@pytest.fixture(scope="package")
def stack(tmp_path_factory, channel, django_db_setup, django_db_blocker):
    """See `Stack`. The service has a database of its own."""
    name = connection.settings_dict["NAME"] + "_service"
    with django_db_blocker.unblock():
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")
            cursor.execute(f"CREATE DATABASE {name}")
        running = Stack(tmp_path_factory.mktemp("stack"), os.environ["DATABASE_URL"].rpartition("/")[0] + f"/{name}")
        yield running
        running.close()
        with connection._nodb_cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="package")
def browser():
    """Chromium, without a window."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright has a loop of its own in this thread, from which Django would keep us away from the database.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def complaints():
    """What the browser says that a policy forbids. A test that provokes it takes it out again."""
    return []


@pytest.fixture
def provoke(complaints):
    """Do what the policy of a page forbids, `provoke(page)`: it is in force, and was asked nothing else so far."""

    def forbidden(page):
        page.evaluate("document.body.setAttribute('style', 'color: red')")
        until(lambda: page.evaluate("1") and complaints)
        assert len(complaints) == 1, complaints
        complaints.clear()

    return forbidden


@pytest.fixture
def visit(browser, live_server, fresh_status, settings, complaints):
    """A page of somebody new: `visit("/jobs/", color_scheme="dark")`.

    Scripts that fail fail the test, and so does what the page's policy forbids.
    """
    settings.RESULT_WAIT_SECONDS = 1
    contexts, mistakes = [], []

    def new(path="/", **options):
        context = browser.new_context(base_url=live_server.url, **{"viewport": DESKTOP} | options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: mistakes.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
        page.goto(path)
        return page

    yield new
    for context in contexts:
        context.close()
    assert not mistakes
    assert not complaints
