"""What a deployed producer refuses, and what it tells browsers to refuse."""

import http.client
import runpy
import socket
from datetime import timedelta
from urllib.parse import urlencode

import pytest
from axes.models import AccessAttempt
from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from jobs.api import limits
from jobs.login import Argon2
from jobs.models import Job, Outbox, ParkedTask

from .conftest import PROJECT, REFUSED, until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh_status")]

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}

# What the settings say about browsers and protocols.
ABOUT_HTTPS = ("SECURE_", "SESSION_COOKIE_", "CSRF_COOKIE_")


@pytest.fixture
def configure(monkeypatch, settings):
    """Load the settings with other variables, and use of them those that have one of these beginnings or names."""

    def use(names, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for name, value in runpy.run_path(str(PROJECT / "producer" / "settings.py")).items():
            if name.startswith(names):
                setattr(settings, name, value)

    return use


def see(client, path="/", **headers):
    return client.get(path, headers=headers)


class Nginx(http.client.HTTPConnection):
    """What nginx asks gunicorn, with the headers that it sets whatever a client says: see roles/web."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        """To the unix socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def pass_on(self, path, form=None, *, address="192.0.2.1", headers=None):
        """Answer (status, headers, text) to what a client at this address asks for, by this form if there is one."""
        said = {"X-Real-IP": address, "X-Forwarded-For": address, "X-Forwarded-Proto": "http", "Host": "localhost"}
        body = form and urlencode(form)
        kind = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        self.request("POST" if form else "GET", path, body, kind | (headers or {}) | said)
        response = self.getresponse()
        answer = response.status, response.headers, response.read().decode()
        self.close()
        return answer


@pytest.fixture
def deployed(transactional_db, run, settings, tmp_path):
    """Gunicorn as it is deployed, on a unix socket, for `deployed(NAME="value").pass_on("/")`."""
    settings.STATIC_ROOT = str(tmp_path / "static")
    digests = {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}
    settings.STORAGES = settings.STORAGES | {"staticfiles": digests}
    call_command("collectstatic", interactive=False, verbosity=0)

    def start(**variables):
        path = tmp_path / "socket"
        options = ("--config", "gunicorn.conf.py", "--bind", f"unix:{path}", "--workers", "1")
        environment = {"STATIC_ROOT": settings.STATIC_ROOT, **variables}
        process = run("-m", "gunicorn", *options, "producer.wsgi:application", **environment)
        until(lambda: process.has_logged("Listening at"), 90)
        return Nginx(str(path))

    return start


def policy(response):
    return dict(rule.split(" ", 1) for rule in response["Content-Security-Policy"].split("; "))


# HTTPS


def test_over_https_everything_is_strict(client, configure):
    configure(ABOUT_HTTPS, HTTPS="true")
    response = client.post("/", {"first": "a", "second": "b"}, headers={"X-Forwarded-Proto": "https"})
    assert response.status_code == 302
    response = see(client, **{"X-Forwarded-Proto": "https"})
    assert response.status_code == 200
    assert response["Strict-Transport-Security"] == "max-age=63072000"
    for name in ("sessionid", "csrftoken"):
        cookie = client.cookies[name]
        assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")


def test_over_http_people_are_sent_to_https(client, configure):
    configure(ABOUT_HTTPS, HTTPS="true")
    for forged in ({}, {"X-Forwarded-Host": "evil.example"}, {"X-Forwarded-Port": "666"}, {"X-Forwarded-Ssl": "on"}):
        response = see(client, "/jobs/?q=a", **{"X-Forwarded-Proto": "http"} | forged)
        assert (response.status_code, response.url) == (301, "https://testserver/jobs/?q=a")
    assert see(client, "/healthzoo").status_code == 301
    assert not client.cookies


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/healthz", "/healthz/live", "/healthz/ready"])
def test_health_is_told_over_http_as_well(client, configure, path):
    configure(ABOUT_HTTPS, HTTPS="true")
    response = see(client, path, **{"X-Forwarded-Proto": "http"})
    assert response.status_code in (200, 503)
    assert response.content == b"ok" or response.json()["tiers"]["postgresql"]["status"] == "ok"


def test_without_https_nobody_is_believed_to_use_it(client):
    response = see(client, **{"X-Forwarded-Proto": "https"})
    assert not response.wsgi_request.is_secure()
    assert "Strict-Transport-Security" not in response
    assert not client.cookies["csrftoken"]["secure"]


@pytest.mark.parametrize("path", ["/", "/jobs/parked/", "/nothing", "/admin/login/", "/api/docs", "/api/jobs"])
def test_every_answer_tells_browsers_what_to_refuse(client, path):
    response = see(client, path)
    assert response["X-Frame-Options"] == "DENY"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    assert response["Cross-Origin-Opener-Policy"] == "same-origin"
    # Swagger has icons in its style sheet, and sends no form.
    other = {"img-src": "'self' data:", "form-action": "'none'"} if path == "/api/docs" else {}
    assert policy(response) == POLICY | other


def test_mistakes_are_told_under_the_same_policy(client, monkeypatch):
    monkeypatch.setattr("jobs.listing.find", lambda query: 1 / 0)
    client.raise_request_exception = False
    for response, status in ((see(client, "/jobs/"), 500), (see(client, Host="evil.example"), 400)):
        assert response.status_code == status
        assert policy(response) == POLICY


# What somebody claims


@pytest.mark.parametrize(
    "host", ["evil.example", "testserver.evil.example", "evil.testserver", "testserver@evil.example"]
)
@pytest.mark.parametrize("path", ["/", "/admin/login/", "/api/jobs", "/healthz/live"])
def test_another_host_is_refused(client, path, host):
    for headers in ({"Host": host}, {"Host": host, "X-Forwarded-Host": "testserver"}):
        assert see(client, path, **headers).status_code == 400
    assert see(client, path, Host="testserver").status_code == 200


def test_another_host_in_a_header_is_not_believed(client):
    response = see(client, **{"X-Forwarded-Host": "evil.example", "X-Forwarded-Port": "666", "Forwarded": "host=evil"})
    assert response.wsgi_request.build_absolute_uri() == "http://testserver/"


def test_behind_nginx_only_what_nginx_names_is_a_clients_address(client, settings, monkeypatch):
    monkeypatch.setattr(limits, "WINDOW_SECONDS", 10**9)
    settings.API_REQUESTS_PER_MINUTE = 3

    def ask(real, forged):
        headers = {"X-Real-IP": real, "X-Forwarded-For": forged, "Forwarded": f"for={forged}"}
        return client.get("/api/jobs", REMOTE_ADDR="", headers=headers).status_code

    assert [ask("192.0.2.1", f"198.51.100.{number}") for number in range(4)] == [200, 200, 200, 429]
    assert ask("192.0.2.2", "198.51.100.0") == 200


@pytest.fixture
def forms():
    """Where each form is sent, and with what."""
    ended = {"state": Job.State.FAILED, "reason": "asked to fail", "finished_at": timezone.now()}
    job = Job.objects.create(first="a", second="b", **ended)
    parked = ParkedTask.objects.create(
        task="x", task_id="1", args=[], kwargs={}, headers={}, queue="service", reason="rejected", body=b"", digest="1"
    )
    chosen = {"action": "try_again", "_selected_action": [job.pk]}
    return {
        "/": {"first": "a", "second": "b"},
        f"/jobs/{job.pk}/retry/": {},
        f"/jobs/parked/{parked.pk}/retry/": {},
        "/admin/jobs/job/": chosen,
        f"/admin/jobs/parkedtask/{parked.pk}/delete/": {"post": "yes"},
        "/admin/password_change/": {},
        "/admin/auth/user/add/": {},
        "/admin/logout/": {},
        "/admin/login/": {"username": "operator", "password": "wrong"},
    }


def test_no_form_is_taken_that_is_not_ours(forms, settings, admin_user):
    settings.RESULT_WAIT_SECONDS = 0
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin_user)
    client.cookies["csrftoken"] = token = "t" * 32
    for path, form in forms.items():
        ours = form | {"csrfmiddlewaretoken": token}
        for wrong, headers in (
            (form, {}),
            (form | {"csrfmiddlewaretoken": "u" * 32}, {}),
            (ours, {"Origin": "http://evil.example"}),
        ):
            response = client.post(path, wrong, headers=headers)
            assert response.status_code == 403, path
            assert "Please send it again" in response.content.decode()
    assert (Job.objects.count(), Outbox.objects.count(), ParkedTask.objects.count()) == (1, 0, 1)
    for path, form in forms.items():
        ours = form | {"csrfmiddlewaretoken": token}
        assert client.post(path, ours, headers={"Origin": "http://testserver"}).status_code in (200, 302), path


# Keys


def test_sessions_of_an_earlier_key_are_valid_as_long_as_that_is_a_fallback(configure):
    person = get_user_model().objects.create_user("operator", is_staff=True)

    def logged_in():
        client = Client()
        client.force_login(person)
        return client

    def may(client):
        cache.clear()  # which keeps sessions as they are, unsigned
        return see(client, "/admin/").status_code == 200

    configure("SECRET_KEY", SECRET_KEY="old")
    first, second = logged_in(), logged_in()
    configure("SECRET_KEY", SECRET_KEY="new", SECRET_KEY_FALLBACKS="older,old")
    assert may(first)
    configure("SECRET_KEY", SECRET_KEY="new", SECRET_KEY_FALLBACKS="")
    assert not may(second)
    # Who came in between has a session of the new key.
    assert may(first)


# The admin site


def test_the_admin_site_is_where_the_environment_says(deployed):
    nginx = deployed(ADMIN_PATH="back/office")
    assert nginx.pass_on("/admin/")[0] == 404
    status, headers, _ = nginx.pass_on("/back/office/")
    assert (status, headers["Location"]) == (302, "/back/office/login/?next=/back/office/")
    status, _, text = nginx.pass_on("/")
    assert status == 200
    assert "office" not in text


# Passwords


PASSWORD = "eleven plus one"


@pytest.fixture
def operator():
    """Somebody who may log in."""
    return get_user_model().objects.create_user("operator", password=PASSWORD, is_staff=True)


def log_in(client, password=PASSWORD, username="operator", **options):
    """The status: 302 who is admitted, 200 who is asked again, 429 who is not heard any more."""
    return client.post("/admin/login/", {"username": username, "password": password}, **options).status_code


def test_a_new_password_is_kept_as_argon2(client, operator):
    assert operator.password.startswith("argon2$argon2id$v=19$m=7168,t=5,p=1$")
    assert log_in(client, "wrong") == 200
    assert log_in(client) == 302


@pytest.mark.parametrize("hasher", ["pbkdf2_sha256", "argon2 as Django has it"])
def test_an_old_password_is_kept_anew_after_its_next_login(client, settings, operator, hasher):
    ours = settings.PASSWORD_HASHERS
    if hasher.startswith("argon2"):
        settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    operator.password = make_password(PASSWORD, hasher=hasher.partition(" ")[0])
    settings.PASSWORD_HASHERS = ours
    operator.save()
    for _ in range(2):
        assert log_in(client) == 302
        operator.refresh_from_db()
        assert operator.password.startswith("argon2$argon2id$v=19$m=7168,t=5,p=1$")


def test_logins_at_one_time_leave_room_for_the_rest():
    gunicorn = runpy.run_path(str(PROJECT / "gunicorn.conf.py"))
    # At most four processes, and half of what the unit may use (web.memory_max_mb).
    assert 4 * gunicorn["threads"] * Argon2.memory_cost <= 256 * 1024


@pytest.mark.parametrize(
    ("password", "complaint"),
    [
        ("red rabbit!", "too short"),
        ("qwerty123456", "too common"),
        ("518263947015", "entirely numeric"),
        ("a-newcomer-12", "too similar"),
    ],
)
def test_a_weak_password_is_refused(admin_client, password, complaint):
    form = {"username": "a-newcomer-1", "usable_password": "true", "password1": password, "password2": password}
    assert complaint in admin_client.post("/admin/auth/user/add/", form).content.decode()
    strong = {"password1": PASSWORD, "password2": PASSWORD}
    assert admin_client.post("/admin/auth/user/add/", form | strong).status_code == 302


# Who guesses them

GUESSES = 5
HERE, ELSEWHERE = {"REMOTE_ADDR": "192.0.2.1"}, {"REMOTE_ADDR": "192.0.2.2"}


def guess(client, count=GUESSES, **options):
    return [log_in(client, f"guess {number}", **HERE | options) for number in range(count)]


def later(minutes):
    for attempt in AccessAttempt.objects.all():
        attempt.attempt_time -= timedelta(minutes=minutes)
        attempt.save()


@pytest.mark.usefixtures("operator")
def test_who_guesses_is_not_heard_and_locks_nobody_else_out(client):
    assert guess(client) == [200, 200, 200, 200, 429]
    response = client.post("/admin/login/", {"username": "operator", "password": PASSWORD}, **HERE)
    assert (response.status_code, response["Retry-After"], response["Cache-Control"]) == (429, "900", "no-store")
    assert "heard again in 15 minutes" in response.content.decode()
    assert log_in(client, **ELSEWHERE) == 302
    get_user_model().objects.create_user("colleague", password=PASSWORD, is_staff=True)
    assert log_in(client, username="colleague", **HERE) == 302
    assert log_in(client, **HERE) == 429


@pytest.mark.usefixtures("operator")
def test_who_guessed_is_heard_again_after_a_while_whatever_was_tried_meanwhile(client):
    guess(client)
    later(14)
    assert guess(client, 1) == [429]
    assert log_in(client, **HERE) == 429
    later(2)
    assert log_in(client, **HERE) == 302


@pytest.mark.usefixtures("operator")
def test_an_operator_forgets_who_guessed(client):
    guess(client)
    call_command("axes_reset")
    assert log_in(client, **HERE) == 302


@pytest.mark.usefixtures("operator")
def test_who_is_admitted_begins_anew(client):
    for _ in range(2):
        assert guess(client, 4) == [200] * 4
        assert log_in(client, **HERE) == 302


@pytest.mark.usefixtures("operator")
def test_another_program_or_address_in_a_header_makes_nobody_else(client):
    def headers(number):
        forged = f"198.51.100.{number}"
        names = ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Client-IP", "True-Client-IP")
        return {"User-Agent": f"program {number}"} | dict.fromkeys(names, forged)

    answers = [log_in(client, "wrong", headers=headers(number), **HERE) for number in range(5)]
    assert answers == [200, 200, 200, 200, 429]
    assert log_in(client, headers=headers(6), **HERE) == 429


@pytest.mark.usefixtures("operator")
def test_a_client_has_all_of_its_network(client):
    answers = [log_in(client, "wrong", REMOTE_ADDR=f"2001:db8::{number}") for number in range(1, 6)]
    assert answers == [200, 200, 200, 200, 429]
    assert log_in(client, REMOTE_ADDR="2001:db8::ffff") == 429
    assert log_in(client, REMOTE_ADDR="2001:db8:0:1::1") == 302


@pytest.mark.usefixtures("operator")
def test_who_has_no_address_has_a_limit_as_well(client):
    assert guess(client, REMOTE_ADDR="") == [200, 200, 200, 200, 429]


@pytest.mark.usefixtures("operator")
def test_redis_is_not_needed_to_count(client, use_redis):
    use_redis(REFUSED)
    assert guess(client) == [200, 200, 200, 200, 429]
    assert log_in(client, **HERE) == 429
    assert log_in(client, **ELSEWHERE) == 302


def test_no_name_is_too_long_to_be_refused(client):
    assert log_in(client, username="x" * 1000, headers={"User-Agent": "x" * 1000, "Accept": "x" * 2000}) == 200


def test_the_log_tells_from_where_but_nothing_that_was_typed(client, caplog):
    client.cookies["csrftoken"] = token = "t" * 32
    form = {"username": "typed", "password": "secret", "csrfmiddlewaretoken": token}
    assert client.post("/admin/login/", form, **HERE).status_code == 200
    assert HERE["REMOTE_ADDR"] in caplog.text
    assert "typed" not in caplog.text
    assert "secret" not in caplog.text
    kept = AccessAttempt.objects.get()
    assert "secret" not in str(vars(kept))
    assert token not in str(vars(kept))


def test_behind_nginx_who_guesses_is_whom_nginx_names(deployed, operator):
    nginx = deployed()
    token = "t" * 32  # what a form and a cookie must have in common

    def log_in(password, address, **headers):
        form = {"username": "operator", "password": password, "csrfmiddlewaretoken": token}
        headers |= {"Cookie": f"csrftoken={token}"}
        return nginx.pass_on("/admin/login/", form, address=address, headers=headers)[0]

    forged = [{"Forwarded": f"for=198.51.100.{number}"} for number in range(5)]
    assert [log_in("wrong", "192.0.2.1", **headers) for headers in forged] == [200, 200, 200, 200, 429]
    assert log_in(PASSWORD, "192.0.2.1") == 429
    assert log_in(PASSWORD, "192.0.2.2") == 302
