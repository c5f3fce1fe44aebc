"""What the application's front door refuses, and how it speaks with people."""

import contextlib
import json
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from cryptography import x509

from verify import BASE, FIRST, NAME, TOPOLOGY, contract, deploy, eventually, exposure, node, visitor

ADDRESS, PORT = contract("front_address"), contract("edge_ports[-1]")
HTTPS = pytest.mark.skipif(not contract("https_here"), reason="people reach it in the clear, on loopback")
AUTHORITIES = f"{contract('secrets_dir')}/tls/authorities.pem"


def plain():
    """A connection to the front door, over TLS where it speaks that."""
    link = socket.create_connection((ADDRESS, PORT), 5)
    if contract("https_here"):
        link = ssl.create_default_context(cafile=AUTHORITIES).wrap_socket(link, server_hostname=NAME)
    return link


def said(request, seconds=30):
    """What comes back for these bytes until the door is shut, and after how many seconds it was."""
    started = time.monotonic()
    with plain() as link:
        link.settimeout(seconds)
        answer = b""
        # The door may be shut before all is said, and without a word.
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
            link.sendall(request)
        with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
            while part := link.recv(65536):
                answer += part
    return answer.decode(errors="replace"), time.monotonic() - started


def raw(target, **headers):
    """The status and the whole answer of a request that no client library would send so."""
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in ({"Host": NAME} | headers).items())]
    answer, _ = said("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    return int(answer.split()[1]), answer


# -- What is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        *("/.git/config", "/.env", "/.well-known/acme-challenge/x", "/environment", "/server-status", "/nginx_status"),
        *("/metrics", "/debug/pprof", "/actuator/env", "/__debug__/", "/manage.py", "/requirements.txt"),
        "/static/",
        "/static/..",
        "/static../environment",
        "/static../releases/",
        "/static../source/manage.py",
        "/static/../environment",
        "/static/%2e%2e/environment",
        "/static/..%2fsource/manage.py",
        "/static/%2e%2e%2fsource/producer/settings.py",
        "/static/....//source/manage.py",
        "/static//etc/passwd",
        "//etc/passwd",
        "/../../../../etc/passwd",
        "/results.txt/../../environment",
        "http://127.0.0.1:15672/api/whoami",
    ],
)
def test_nothing_but_the_application_is_there(target):
    status, answer = raw(target)
    assert status in (400, 403, 404), answer
    assert not re.search("root:|SECRET_KEY|DATABASE_URL|PASSWORD|django.core|\\[core\\]", answer)


def test_an_answer_names_no_version():
    for target in ("/", "/nowhere", "/static/nothing"):
        _, answer = raw(target)
        head = answer.split("\r\n\r\n")[0].lower()
        assert "server: nginx\r\n" in head
        assert not re.search("gunicorn|django|python|x-powered-by", head)


# -- What is too much -------------------------------------------------------------------------------------------------


def test_what_is_too_large_is_refused():
    answer = visitor().post(f"{BASE}/api/jobs", data=b"x" * (1024 * 1024 + 1), timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (413, "application/problem+json")
    # It is not waited for.
    answer, seconds = said(f"POST /api/jobs HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 2000000\r\n\r\n".encode())
    assert " 413 " in answer
    assert seconds < 8
    # One that does not say how large it is, and one with headers without end.
    chunks = (b"x" * 65536 for _ in range(40))
    assert visitor().post(f"{BASE}/api/jobs", data=chunks, timeout=10).status_code == 413
    assert raw("/", Cookie="x" * 40_000)[0] in (400, 431)
    assert raw("/" + "x" * 40_000)[0] == 414


@pytest.mark.alike
def test_who_is_slow_is_not_waited_for_and_holds_up_nobody():
    """Hundreds begin a request and do not go on; one who asks meanwhile is answered, and they are sent away."""
    begun = f"POST /api/jobs HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 100\r\n"
    with contextlib.ExitStack() as stack:
        for number in range(300):
            link = stack.enter_context(plain())
            # Half of them with their head, and a first byte of the body.
            link.sendall((begun + ("\r\nx" if number % 2 else "")).encode())
        started = time.monotonic()
        assert visitor().get(f"{BASE}/healthz/live", timeout=5).status_code == 200
        assert time.monotonic() - started < 2
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(said, (begun.encode(), f"{begun}\r\nx".encode())))
    for answer, seconds in answers:
        assert seconds < 15
        assert answer == "" or " 408 " in answer


@pytest.mark.skipif(not contract("projects[0].web.limits | default([])"), reason="nothing is limited")
def test_who_guesses_is_slowed_down():
    [limit] = contract("projects[0].web.limits")
    session = visitor()
    assert {session.get(BASE + limit["path"], timeout=10).status_code for _ in range(20)} == {200}, "who looks is not"
    seen = [session.post(BASE + limit["path"], data={}, timeout=10).status_code for _ in range(20)]
    assert set(seen) == {403, 429}
    assert 1 <= seen.count(403) <= limit["per_minute"] + limit.get("burst", 5)
    answer = session.post(BASE + limit["path"], data={}, timeout=10)
    assert answer.headers["Retry-After"] == "60"
    assert answer.json()["status"] == 429
    assert session.post(f"{BASE}/api/jobs", json={}, timeout=10).status_code == 422, "others are not"


# -- Who pretends -----------------------------------------------------------------------------------------------------


def test_a_forged_host_is_refused():
    for forged in ("evil.example", f"{NAME}.evil.example", f"{NAME}:80@evil.example", "", f"{NAME}\tevil", "127.0.0.1"):
        status, answer = raw("/", Host=forged)
        assert status == 400, forged
        assert "evil.example" not in answer
    status, _ = raw("/", **{"Host": NAME, "host": "evil.example"})
    assert status == 400


def test_what_a_client_says_of_its_way_is_not_believed():
    """Of itself, its host and its scheme: the first would defeat limits, the others lead people elsewhere."""
    forged = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Real-IP": "203.0.113.9",
        "Forwarded": "for=203.0.113.9;host=evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Prefix": "/evil",
        "X-Original-URL": "/admin/",
        "Script-Name": "/evil",
    }
    honest, told = visitor().get(f"{BASE}/", timeout=10), visitor().get(f"{BASE}/", headers=forged, timeout=10)
    assert told.status_code == honest.status_code == 200
    assert "evil" not in told.text + str(told.headers)
    journals = [node(host).check_output("tail -n 5 /var/log/nginx/access.log") for host in TOPOLOGY.hosts("web")]
    assert "GET / " in "".join(journals)
    assert "203.0.113.9" not in "".join(journals)
    location = visitor().get(f"{BASE}/admin/", headers=forged, timeout=10, allow_redirects=False).headers["Location"]
    assert "evil" not in location


def test_a_form_that_is_not_ours_is_refused():
    session = visitor()
    fields = {"first": "a", "second": "b"}
    assert session.post(f"{BASE}/", data=fields, timeout=10).status_code == 403
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', session.get(BASE, timeout=10).text)[1]
    fields["csrfmiddlewaretoken"] = token
    # Without the cookie, and from another site.
    assert visitor().post(f"{BASE}/", data=fields, timeout=10).status_code == 403
    headers = {"Cookie": f"csrftoken={session.cookies['csrftoken']}", "Origin": "https://evil.example"}
    assert visitor().post(f"{BASE}/", data=fields, headers=headers, timeout=10).status_code == 403


def test_two_in_one_are_refused():
    """Requests that nginx and gunicorn might cut apart at different places."""
    begun = f"POST / HTTP/1.1\r\nHost: {NAME}\r\n"
    smuggled = "GET /smuggled HTTP/1.1\r\n\r\n"
    for head in (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
    ):
        answer, _ = said(f"{begun}{head}\r\n0\r\n\r\n{smuggled}".encode())
        assert answer.split()[1] in ("400", "501"), head
        assert answer.count("HTTP/1.1 ") == 1


# -- HTTPS ------------------------------------------------------------------------------------------------------------


def handshake(**more):
    """The version and the cipher that the door agrees to."""
    context = ssl.create_default_context(cafile=AUTHORITIES)
    context.set_ciphers("ALL:@SECLEVEL=0")
    for name, value in more.items():
        if name == "ciphers":
            context.set_ciphers(value)
        else:
            setattr(context, name, value)
    with (
        socket.create_connection((ADDRESS, PORT), 5) as link,
        context.wrap_socket(link, server_hostname=NAME) as secure,
    ):
        return secure.version(), secure.cipher()[0]


@HTTPS
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_the_certificate_is_for_the_name_and_old_versions_are_refused():
    assert handshake()[0] == "TLSv1.3"
    v = ssl.TLSVersion
    assert handshake(minimum_version=v.TLSv1_2, maximum_version=v.TLSv1_2)[0] == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match=r"alert|PROTOCOL"):
        handshake(minimum_version=v.TLSv1, maximum_version=v.TLSv1_1)
    for weak in ("AES128-SHA", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "DHE-RSA-AES256-GCM-SHA384"):
        with pytest.raises(ssl.SSLError, match=r"alert|HANDSHAKE"):
            handshake(maximum_version=v.TLSv1_2, ciphers=f"{weak}:@SECLEVEL=0")
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(BASE, timeout=10)


@HTTPS
def test_in_the_clear_there_is_only_the_way_to_https():
    clear = f"http://{ADDRESS}:{contract('http_port')}"
    answer = requests.post(f"{clear}/api/jobs?x=y", headers={"Host": NAME}, timeout=10, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (308, f"https://{NAME}/api/jobs?x=y")
    stranger = requests.get(clear, headers={"Host": "evil.example"}, timeout=10, allow_redirects=False)
    assert stranger.status_code == 400
    assert "Location" not in stranger.headers


@HTTPS
def test_browsers_keep_to_https_and_cookies_with_them():
    session = visitor()
    page = session.get(BASE, timeout=10)
    sheet = re.search(r'href="(/static/[^"]+\.css)"', page.text)[1]
    for answer in (page, session.get(BASE + sheet, timeout=10), session.get(f"{BASE}/nowhere", timeout=10)):
        assert answer.headers["Strict-Transport-Security"] == contract("https_hsts")
    assert session.cookies
    assert all(cookie.secure for cookie in session.cookies)


@pytest.mark.parametrize("project", [project["name"] for project in contract("projects")])
def test_django_has_nothing_to_complain_about(project):
    """As deployed, with HTTPS or without."""
    host = next(one["hosts"][0] for one in contract("projects") if one["name"] == project)
    node(host).check_output(f"quintet-manage {project} check --deploy --fail-level WARNING")


# -- ACME -------------------------------------------------------------------------------------------------------------

# A small authority that speaks ACME, as a package of the distribution, on the web host itself. It shows the certificate
# by which HAProxy there is known.
SITE = f"app.{contract('service_domain')}"
ACME_SERVER = f"{FIRST}.{contract('service_domain')}"
PEBBLE = {
    "pebble": {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": "/etc/haproxy/identity.pem",
        "privateKey": "/etc/haproxy/identity.pem",
        "httpPort": contract("http_port"),
        "tlsPort": 5001,
    }
}


@pytest.fixture
def acme():
    """The settings of a site that asks this authority; afterwards all is as before."""
    machine = node(FIRST)
    machine.check_output("apt-get install -qq -y --no-install-recommends pebble >/dev/null 2>&1")
    machine.check_output(f"cat >/root/pebble.json <<'QUINTET'\n{json.dumps(PEBBLE)}\nQUINTET")
    machine.check_output(f"echo '127.0.0.1 {SITE} # pebble' >>/etc/hosts")
    machine.check_output(
        "systemd-run --unit quintet-pebble --collect --setenv=PEBBLE_VA_NOSLEEP=1 --setenv=PEBBLE_WFE_NONCEREJECT=0 "
        "pebble -config /root/pebble.json"
    )
    eventually(lambda: machine.run("ss -Hltn sport = :14000").stdout, 10)
    try:
        yield {
            "application_url": f"https://{SITE}",
            "app_hostnames": [SITE],
            "https_certificate": "acme",
            "https_acme": {
                "directory": f"https://{ACME_SERVER}:14000/dir",
                "authorities": contract("tls_authorities"),
            },
        }
    finally:
        # Not by a rename: a container's file is a mount.
        machine.run(
            "systemctl stop quintet-pebble; grep -v pebble /etc/hosts >/root/hosts && cat /root/hosts >/etc/hosts"
        )
        machine.run("apt-get purge -qq -y --autoremove pebble >/dev/null 2>&1; rm -rf /root/pebble.json /root/hosts")
        deploy()
        machine.run("rm -rf /etc/letsencrypt /etc/nginx/quintet-acme.pem; systemctl reset-failed")


def shown():
    """The certificate that the door shows for the site."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((ADDRESS, contract("https_port")), 5) as link,
        context.wrap_socket(link, server_hostname=SITE) as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True))


@HTTPS
@pytest.mark.slow
def test_a_certificate_comes_by_acme_and_is_renewed(acme):
    changes, _ = deploy(extra=acme)
    assert changes
    first = shown()
    assert "Pebble" in first.issuer.rfc4514_string()
    names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SITE]
    machine = node(FIRST)
    assert oct(machine.file("/etc/nginx/quintet-acme.pem").mode) == "0o600"
    assert deploy(extra=acme)[0] == 0
    assert exposure(FIRST, "quintet-acme.service") <= 2.0
    # As the distribution's timer does it, but before it is due.
    assert machine.check_output("systemctl is-enabled certbot.timer") == "enabled"
    trust = "REQUESTS_CA_BUNDLE=/etc/nginx/quintet-acme-authorities.pem"
    machine.check_output(f"{trust} certbot renew --quiet --no-random-sleep-on-renew --force-renewal")
    eventually(lambda: shown().serial_number != first.serial_number, 10)
    assert deploy(extra=acme)[0] == 0, "a deploy takes back what was renewed"
