"""One job's journey: the form, the worker on its host, the result; and what people see when a tier is missing."""

import re
import time

import pytest

from verify import BASE, NAME, TOPOLOGY, eventually, manage, together, visitor
from verify.tiers import UNITS


def submit(first, second):
    """Fill in the form as a browser does; the page that the answer leads to."""
    session = visitor()
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', session.get(BASE, timeout=10).text)[1]
    # The cookie's domain is the host name, not the address that this test connects to.
    session.headers["Referer"] = f"{BASE.partition(':')[0]}://{NAME}/"
    session.headers["Cookie"] = "; ".join(f"{cookie.name}={cookie.value}" for cookie in session.cookies)
    fields = {"csrfmiddlewaretoken": token, "first": first, "second": second}
    answer = session.post(f"{BASE}/", data=fields, timeout=15, allow_redirects=False)
    assert answer.status_code == 302, answer.text
    return session, BASE + answer.headers["Location"]


def health(path=""):
    return visitor().get(f"{BASE}/healthz{path}", timeout=15)


def test_round_trip_reaches_each_worker():
    for web in TOPOLOGY.hosts("web"):
        workers = TOPOLOGY.hosts("worker")
        seen = {manage(web, "producer", "roundtrip")["worker"] for _ in range(10 * len(workers))}
        assert seen == set(workers)


def test_form_joins_two_words():
    session, page = submit("Zürich", "<b>été</b>")
    shown = session.get(page, timeout=10).text
    assert "Zürich es &lt;b&gt;été&lt;/b&gt;" in shown


def test_a_delayed_job_is_done_when_it_is_due():
    started = time.monotonic()
    words = {"first": "a", "second": "b", "delay_seconds": 3}
    job = visitor().post(f"{BASE}/api/jobs", json=words, timeout=10).json()["id"]

    def done():
        return visitor().get(f"{BASE}/api/jobs/{job}", timeout=10).json()["state"] == "done"

    assert eventually(done, 20)
    assert time.monotonic() - started > 2.5


def test_invalid_form_is_no_server_error():
    answer = visitor().post(f"{BASE}/", data={"first": "", "second": "x" * 10_000}, timeout=10)
    assert 400 <= answer.status_code < 500


def test_foreign_host_name_is_refused():
    assert visitor().get(BASE, headers={"Host": "evil.example"}, timeout=10).status_code == 400


def test_static_files_are_served():
    sheet = re.search(r'href="(/static/[^"]+\.css)"', visitor().get(BASE, timeout=10).text)[1]
    answer = visitor().get(BASE + sheet, timeout=10)
    assert answer.status_code == 200
    assert "immutable" in answer.headers["Cache-Control"]


def test_five_second_example():
    assert manage(TOPOLOGY.hosts("web")[0], "producer", "call", "add", "2", "3")["result"] == 5


def test_job_waits_for_a_worker_that_is_stopped():
    workers = TOPOLOGY.hosts("worker")
    together(workers, "systemctl stop celery-service")
    try:
        started = time.monotonic()
        session, page = submit("a", "b")
        shown = session.get(page, timeout=10).text
        assert time.monotonic() - started < 10
        assert "waiting" in shown.lower()
        assert "a es b" not in shown
    finally:
        together(workers, "systemctl start celery-service")
    eventually(lambda: "a es b" in session.get(page, timeout=10).text, seconds=30)


def failing(answer):
    """The tiers that a health page says are failing."""
    names = {name for name, tier in answer.json()["tiers"].items() if tier["status"] != "ok"}
    assert answer.status_code == (503 if names else 200)
    return names


def test_health_page_is_green():
    answer = eventually(lambda: health() if health().ok else None, seconds=30)
    assert set(answer.json()["tiers"]) == {"postgresql", "redis", "rabbitmq", "worker"}
    assert {tier["status"] for tier in answer.json()["tiers"].values()} == {"ok"}
    for web in TOPOLOGY.hosts("web"):
        assert manage(web, "producer", "health")["status"] == "ok"


@pytest.mark.parametrize(
    ("group", "unit"),
    [
        ("postgresql", UNITS["postgresql"][0]),
        ("redis", "redis-server@cache"),
        ("redis", "redis-server@results"),
        ("rabbitmq", "rabbitmq-server"),
        ("worker", "celery-service"),
    ],
)
def test_health_page_names_the_tier_that_fails(group, unit):
    """On all of its hosts."""
    hosts = TOPOLOGY.hosts(group)
    together(hosts, f"systemctl stop {unit}")
    try:
        # An answer may be a second old. Without a broker nobody knows of the workers.
        expected = {group} | ({"worker"} if group == "rabbitmq" else set())
        eventually(lambda: failing(health()) == expected, seconds=10)
        # Why a tier fails is nobody's business; a web host can do its work as long as there is PostgreSQL.
        assert "error" not in health().text
        assert health("/ready").status_code == (503 if group == "postgresql" else 200)
        assert health("/live").status_code == 200
    finally:
        together(hosts, f"systemctl start {unit}")
    eventually(lambda: health().ok, seconds=60)
