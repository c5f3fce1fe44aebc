"""A management command, as an operator runs it."""

import pytest

from verify import TOPOLOGY, failure, playbook

MANAGE = "runbooks/manage/playbook.yml"


@pytest.mark.parametrize("more", [{}, {"manage_host": TOPOLOGY.hosts("worker")[0]}])
def test_a_management_command_runs_as_the_services_do(more):
    asked = {"manage_project": "producer", "manage_command": "showmigrations jobs"} | more
    result = playbook(MANAGE, extra=asked)
    assert result.returncode == 0, failure(result)
    assert "[X] 0004_wake" in result.stdout


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
    result = playbook(MANAGE, extra=asked)
    assert result.returncode != 0
    assert says in result.stdout
