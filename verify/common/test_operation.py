"""What operators do to running services, and what a deploy does that was killed before it finished."""

import threading
import time

import pytest
import requests

from verify import FIRST, TOPOLOGY, contract, deploy, manage, node, playbook

WORKER = TOPOLOGY.hosts("worker")[0]


def test_a_restart_cuts_no_task_off():
    worker = node(WORKER)
    since = worker.check_output("date '+%Y-%m-%d %H:%M:%S'")
    found = {}
    # Five seconds long; the restart comes in its middle.
    call = threading.Thread(target=lambda: found.update(manage(FIRST, "producer", "call", "add", "2", "40")))
    call.start()
    time.sleep(3)
    worker.check_output("systemctl restart celery-service")
    call.join()
    assert found["result"] == 42
    journal = worker.check_output("journalctl --unit celery-service --since %s --output cat", since)
    assert journal.count("Task add[") - journal.count("succeeded") == journal.count("received") == 1


def test_a_restart_of_gunicorn_fails_no_request():
    url, headers = f"http://{contract('host_address')}:{contract('http_port')}/healthz/live", {"Host": "localhost"}
    statuses, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            statuses.append(requests.get(url, headers=headers, timeout=20).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(2):
            node(FIRST).check_output("systemctl restart gunicorn-producer.service")
            time.sleep(1)
    finally:
        stop.set()
        asking.join()
    assert len(statuses) > 20
    assert set(statuses) == {200}


def test_a_deploy_killed_before_a_restart_is_put_right():
    # The file is newer than the process, as after a deploy that wrote it and was killed: nobody will notify a handler.
    redis = node(TOPOLOGY.hosts("redis")[0])
    before = redis.check_output("systemctl show --value --property MainPID redis-server@cache")
    redis.check_output("touch /etc/redis/redis-cache.conf")
    changes, _ = deploy(limit="redis")
    assert changes == 1
    assert redis.check_output("systemctl show --value --property MainPID redis-server@cache") != before
    assert deploy(limit="redis")[0] == 0


# -- Runbooks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"manage_host": TOPOLOGY.hosts("worker")[0]}])
def test_a_management_command_runs_as_the_services_do(more):
    asked = {"manage_project": "producer", "manage_command": "showmigrations jobs"} | more
    result = playbook("runbooks/manage/playbook.yml", extra=asked)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "[X] 0003_notify" in result.stdout


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"manage_project": "produce", "manage_command": "check"}, "one of producer, service"),
        ({"manage_project": "producer"}, "manage_command="),
        ({"manage_project": "producer", "manage_command": "check", "manage_host": "nowhere"}, "manage_host="),
        ({"manage_project": "producer", "manage_command": "no_such_command"}, "Unknown command"),
    ],
)
def test_a_management_command_that_cannot_run_says_why(asked, says):
    result = playbook("runbooks/manage/playbook.yml", extra=asked)
    assert result.returncode != 0
    assert says in result.stdout
