"""The user of the page: declared as it says, and then admitted as it says; the second time there is nothing to do."""

import json
import re
from pathlib import Path

import pytest
import yaml

from verify import TOPOLOGY, contract, failure, node, playbook
from verify.common.test_rabbitmq import login, rabbitmqctl, whoami

RUNBOOK = "runbooks/add_broker_user/playbook.yml"
PAGE = Path(__file__).with_name("README.md").read_text()
DECLARED = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])
BY_HAND = re.search(r"```sh\n(rabbitmqctl.*?)```", PAGE, re.DOTALL)[1].splitlines()
[USER], [VHOST] = DECLARED["broker_extra_users"], DECLARED["broker_extra_vhosts"]
USER["password"] = "planted $HOME \"x' \\"
ABSENT = {kind: [{"name": one["name"], "state": "absent"} for one in ones] for kind, ones in DECLARED.items()}


def declare(*arguments, declared=DECLARED):
    return playbook(RUNBOOK, *arguments, extra=declared)


def said(result):
    """What it said of the difference, and whether it changed anything."""
    assert result.returncode == 0, failure(result)
    assert "planted" not in result.stdout
    return " ".join(result.stdout.split()), "changed=1" in result.stdout


@pytest.fixture
def undone():
    yield
    said(declare(declared=ABSENT))


@pytest.mark.usefixtures("undone")
def test_the_user_of_the_page_is_admitted_as_declared():
    words, changed = said(declare("--check"))
    assert changed
    assert USER["name"] not in {one["user"] for one in rabbitmqctl("list_users")}, "check mode changed the broker"

    words, changed = said(declare())
    assert changed
    assert [line for line in BY_HAND if line not in words] == []
    assert login(USER["name"], USER["password"], VHOST["name"]) == "admitted"
    assert "NotAllowed" in login(USER["name"], USER["password"], contract("broker_vhost"))
    assert whoami(USER["name"], USER["password"])["tags"] == USER["tags"]

    # Somebody did it by hand, and otherwise.
    node(TOPOLOGY.hosts("rabbitmq")[0]).check_output(f"rabbitmqctl set_user_tags {USER['name']} administrator")
    words, changed = said(declare())
    assert changed
    assert [line for line in BY_HAND if line in words] == BY_HAND[-1:], "more than the difference was written"
    assert whoami(USER["name"], USER["password"])["tags"] == USER["tags"]
    assert not said(declare())[1]


def test_a_permission_in_no_vhost_is_refused():
    result = declare(declared={"broker_extra_users": [USER]})
    assert result.returncode != 0
    assert f"{USER['name']} has permissions in {VHOST['name']}, which is no vhost" in result.stdout
    assert USER["name"] not in json.dumps(rabbitmqctl("list_users"))
