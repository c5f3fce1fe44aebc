"""People get a page that says to wait; health, the host itself and a deploy do not notice."""

import pytest

from verify import BASE, TOPOLOGY, deploy, failure, manage, playbook, visitor

RUNBOOK = "runbooks/maintenance/playbook.yml"
WEBS = TOPOLOGY.hosts("web")
TEXT = "Back at <14:00> UTC & not before."


def maintenance(state, **more):
    result = playbook(RUNBOOK, extra={"maintenance_state": state, **more})
    assert result.returncode == 0, failure(result)
    return "changed=1" in result.stdout


def ask(path="/", method="GET", **more):
    return visitor().request(method, BASE + path, timeout=10, **more)


@pytest.fixture(scope="module", autouse=True)
def people_wait():
    assert maintenance("on", maintenance_text=TEXT)
    yield
    maintenance("off")


@pytest.mark.parametrize(
    ("path", "method"), [("/", "GET"), ("/", "POST"), ("/api/jobs", "POST"), ("/nowhere", "GET"), ("/static/x", "GET")]
)
def test_people_are_told_to_wait(path, method):
    answer = ask(path, method, data={"first": "a"} if method == "POST" else None)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "120"
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "Back at &lt;14:00&gt; UTC &amp; not before." in answer.text


@pytest.mark.parametrize("path", ["/healthz", "/healthz/live", "/healthz/ready"])
def test_monitoring_is_answered(path):
    assert ask(path).status_code == 200


def test_who_pretends_to_be_the_host_waits():
    forged = {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"}
    assert ask(headers=forged).status_code == 503
    assert ask("/quintet-maintenance.html").status_code in (404, 503)


def test_the_host_itself_sees_the_application():
    for web in WEBS:
        assert manage(web, "producer", "roundtrip")["ok"]


def test_a_deploy_respects_it_and_off_ends_it():
    assert deploy(limit="web")[0] == 0
    assert ask().status_code == 503
    assert not maintenance("on", maintenance_text=TEXT)
    assert maintenance("off")
    assert ask().status_code == 200
    assert not maintenance("off")


def test_what_is_neither_on_nor_off_is_refused():
    result = playbook(RUNBOOK, extra={"maintenance_state": "true"})
    assert result.returncode != 0
    assert "-e maintenance_state=on" in result.stdout
