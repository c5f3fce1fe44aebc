"""What is said of a stack that is well, and of one that is not."""

import json
import time
import xml.etree.ElementTree as ET

from verify import FIRST, TOPOLOGY, eventually, node, playbook
from verify.releases import running

STATUS = "runbooks/status/playbook.yml"
WORKER = TOPOLOGY.hosts("worker")[0]
SECONDS = 60


def ask(path, **extra):
    """The exit status, what it says in one line, and the file for machines; the page for people is beside it."""
    result = playbook(STATUS, extra={"status_file": str(path), "status_page": str(path.with_suffix(".html"))} | extra)
    return result.returncode, " ".join(result.stdout.split()), json.loads(path.read_text())


def test_a_stack_that_is_well(tmp_path):
    started = time.monotonic()
    code, words, said = ask(tmp_path / "status.json")
    assert time.monotonic() - started < SECONDS
    assert (code, said["ok"], said["wrong"]) == (0, True, []), words
    assert set(said["hosts"]) == set(TOPOLOGY.hosts())
    for project in ("producer", "service"):
        assert said["hosts"][WORKER]["releases"][project]["release"] == running(project)
    assert said["hosts"][FIRST]["sites"] == {"producer": 200}
    leaders = [host for host in TOPOLOGY.hosts("postgresql") if said["hosts"][host]["postgresql"]["role"] == "leader"]
    assert len(leaders) == 1
    assert said["hosts"][leaders[0]]["postgresql"]["counts"]["parked tasks"] >= 0
    queues = {queue["name"]: queue for queue in said["broker"]["queues"]}
    assert {"service", "results", "parked"} <= queues.keys()
    assert queues["service"]["consumers"] == len(TOPOLOGY.hosts("worker"))
    for host, group in ((FIRST, "nginx"), (TOPOLOGY.hosts("rabbitmq")[0], "rabbitmq-server")):
        assert said["hosts"][host]["versions"][group]
        assert said["hosts"][host]["units"][group]["state"] == "active"
    for host in TOPOLOGY.hosts():
        assert said["hosts"][host]["units"]
        assert said["hosts"][host]["certificates"]
        assert said["hosts"][host]["disks"]["/"]["free_percent"] > 0
        assert f"{host}: disk" in words
    page = (tmp_path / "status.html").read_text()
    ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    assert page.count('<g class="good"') == len(TOPOLOGY.hosts())
    assert "All is well." in page
    assert '"changed": true' not in words


def test_what_a_deploy_would_change_is_an_error(tmp_path):
    file = node(WORKER).file("/etc/haproxy/haproxy.cfg")
    mode = file.mode
    node(WORKER).check_output(f"chmod 0600 {file.path}")
    try:
        code, words, said = ask(tmp_path / "status.json", status_drift=True)
    finally:
        node(WORKER).check_output(f"chmod {mode:o} {file.path}")
    assert code != 0
    # This, and nothing else.
    assert said["drift"] == 1, words
    assert "a deploy would change 1 things" in words


def test_what_is_wrong_is_said_and_is_an_error(tmp_path):
    worker = node(WORKER)
    other = "releases/of-somebody-else"
    home = "/opt/quintet/producer"
    current = worker.check_output(f"readlink {home}/current")
    worker.check_output("systemctl stop celery-service")
    worker.check_output(f"mkdir -p {home}/{other} && touch {home}/{other}/complete && ln -sfn {other} {home}/current")
    try:
        code, words, said = ask(tmp_path / "status.json")
    finally:
        worker.check_output(f"ln -sfn {current} {home}/current && rm -r {home}/{other}")
        worker.check_output("systemctl start celery-service")
        # It is older than the link, which a deploy would take for a new release.
        worker.check_output("systemctl restart celery-producer")
    assert code != 0
    assert not said["ok"]
    assert f"{WORKER}: celery-service is inactive" in said["wrong"]
    assert [sentence for sentence in said["wrong"] if sentence.startswith("producer does not run one release: ")]
    assert f"{WORKER}: celery-service is inactive" in words
    page = (tmp_path / "status.html").read_text()
    assert f"<li>{WORKER}: celery-service is inactive</li>" in page
    assert page.count('<g class="bad"') == 1
    eventually(lambda: ask(tmp_path / "status.json")[0] == 0, 60)
