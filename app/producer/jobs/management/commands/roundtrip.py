"""manage.py roundtrip: one job through every tier, as a browser would do it."""

import json
import os
import re
import secrets
import ssl
import time
from http.cookiejar import CookieJar
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPSHandler, ProxyHandler, Request, build_opener

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from jobs import results
from jobs.models import Job

REQUEST_SECONDS = 15  # a post may take as long as its bounded waits together


class Command(BaseCommand):
    """Post the form over HTTP, wait for the result, and look for it in PostgreSQL and in /results.txt."""

    help = "Send one job through every tier, over HTTP like a browser, and print what happened as one line of JSON."

    def add_arguments(self, parser):
        """Where the web server is, and how long to wait."""
        parser.add_argument("--url", default=os.environ.get("ROUNDTRIP_URL", "http://127.0.0.1/"))
        parser.add_argument("--host", default=default_host(), help="the Host header (default: first allowed host)")
        parser.add_argument("--timeout", type=float, default=20, metavar="SECONDS")

    def handle(self, *args, url, host, timeout, **options):
        """Exit with 0 only if all is well. Nothing is tried twice: what a user would see fail, fails here."""
        started = time.monotonic()
        self.step = "start"
        try:
            job = self.travel(url, host, started + timeout)
        except Exception as exc:
            error = f"{type(exc).__name__}: {exc}"
            self.stdout.write(json.dumps({"ok": False, "step": self.step, "error": error}))
            raise CommandError(f"{self.step}: {error}") from exc
        seconds = round(time.monotonic() - started, 3)
        found = {"ok": True, "seconds": seconds, "job": str(job.pk), "result": job.result, "worker": job.worker}
        self.stdout.write(json.dumps(found))

    def travel(self, url, host, deadline):
        """Go through the steps; `self.step` names the one at which it ends."""
        # No proxy, whatever the environment says: the server asked for is the one to be tested. On loopback it has no
        # name that a certificate could be for.
        local = urlsplit(url).hostname == "127.0.0.1"
        trust = ssl._create_unverified_context() if local else ssl.create_default_context()
        browser = build_opener(ProxyHandler({}), HTTPCookieProcessor(CookieJar()), HTTPSHandler(context=trust))
        name = host or urlsplit(url).netloc
        # A form that comes by HTTPS says where from.
        headers = {"Host": name, "Referer": f"{urlsplit(url).scheme}://{name}/"}

        def visit(address, data=None):
            return browser.open(Request(address, data, headers), timeout=REQUEST_SECONDS)

        self.step = "get the form"
        with visit(url) as page:
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.read().decode())
        expect(token, "the page has no form with a CSRF token")

        self.step = "post the form"
        first, second = secrets.token_hex(4), secrets.token_hex(4)
        fields = {"csrfmiddlewaretoken": token[1], "first": first, "second": second}
        with visit(url, urlencode(fields).encode()) as page:
            place = re.search(r"/jobs/([0-9a-f-]{36})/$", page.url)
        expect(place, f"the post led to {page.url}, which is no job's page")

        self.step = "wait for the result"
        while True:
            with visit(urljoin(url, f"/jobs/{place[1]}.json")) as page:
                shown = json.load(page)
            if shown["state"] != Job.State.WAITING:
                break
            expect(time.monotonic() < deadline, "the job is still waiting for a worker")
            time.sleep(0.2)
        expect(shown["state"] == Job.State.DONE, f"the job is {shown['state']}: {shown['reason']}")

        self.step = "compare the result"
        expected = f"{first} es {second}"
        expect(shown["result"] == expected, f"{shown['result']!r} is not {expected!r}")

        self.step = "find the row in PostgreSQL"  # where the result comes by another way, a moment later
        while (job := Job.objects.get(pk=place[1])).waiting:
            expect(time.monotonic() < deadline, "the result was shown, and did not come home")
            time.sleep(0.05)
        expect((job.state, job.result) == (Job.State.DONE, expected), f"the row says {job.state}, {job.result!r}")

        self.step = "find the line in /results.txt"
        with visit(urljoin(url, "/results.txt?" + urlencode({"since": job.finished_at.isoformat()}))) as page:
            count = page.read().decode().split("\n").count(results.line(job))
        expect(count == 1, f"/results.txt has {count} lines for this job")
        return job


def default_host():
    """The first allowed host that is a name, not a pattern."""
    return next((host.lstrip(".") for host in settings.ALLOWED_HOSTS if host != "*"), None)


def expect(truth, otherwise):
    """Raise what is otherwise the case."""
    if not truth:
        raise AssertionError(otherwise)
