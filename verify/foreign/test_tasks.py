"""The tasks of foreign projects: started on a web host, through a vhost of their own, done on a worker's host."""

import json

import pytest

from verify import eventually, node
from verify.foreign import APP_HOSTS, FIRST, PROJECTS, WORKER, ask, rabbitmqctl, sign

# Uses an event of its own. Its cache is Redis: what the worker leaves there is seen here.
TALKS = """
import datetime, json
from django_scopes import scopes_disabled
from pretalx.event.domain.event import create_event
from pretalx.event.models import Event, Organiser
from pretalx.schedule.tasks import task_update_unreleased_schedule_changes

with scopes_disabled():
    event = Event.objects.filter(slug="quintet").first()
    if event is None:
        organiser, _ = Organiser.objects.get_or_create(slug="quintet", defaults={"name": "Quintet"})
        day = datetime.date(2030, 1, 1)
        event = create_event(
            organiser=organiser, locales=["en"], name="Quintet", slug="quintet", email="team@example.org",
            date_from=day, date_to=day,
        )
    key = "has_unreleased_schedule_changes"
    event.cache.delete(key)
    before = event.cache.get(key)
    task = task_update_unreleased_schedule_changes.delay(event=event.slug)
    task.get(timeout=30)
    print(json.dumps({"task": task.id, "before": before, "after": event.cache.get(key)}))
"""
QUEUES = {
    "guestbook": {"celery": 1},
    "shop": {"orders": 1, "mail": 1},
    "talks": {"celery": 1},
    "ledger": {"celery": 1},
}


def test_hard_coded_broker_and_results_are_replaced():
    path = sign("été")
    entry = eventually(
        lambda: found if (found := ask("guestbook", path).json())["host"] and found["shouted"] else None, seconds=30
    )
    assert entry == {"text": "été", "picture": "", "state": "SUCCESS", "shouted": "ÉTÉ", "host": WORKER}


def test_each_worker_has_its_queue_and_hosts_share_a_file():
    path = ask("shop", "/shop/", "POST", data={"item": "tea"}).headers["Location"]
    order = eventually(lambda: found if (found := ask("shop", path).json())["mailed_by"] else None, seconds=30)
    # Signed on the worker's host, checked on the web host.
    assert order["valid"]
    assert {order["confirmed_by"].rpartition("@")[2], order["mailed_by"].rpartition("@")[2]} == {WORKER}
    assert order["confirmed_by"] != order["mailed_by"]


def test_an_application_of_the_index_runs_a_task_of_its_own():
    result = node(FIRST).run("quintet-manage talks shell --unsafe-disable-scopes --no-imports -c %s", TALKS)
    assert result.rc == 0, result.stdout + result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["before"], found["after"]) == (None, False)
    journal = node(WORKER).check_output("journalctl --unit celery-talks --output cat --since -5min")
    assert f"[{found['task']}] succeeded" in journal


def test_a_compiled_driver_works_on_both_hosts():
    before = ask("ledger", "/").json()["bookings"]
    task = ask("ledger", "/", "POST", data={"amount": 5}).json()["task"]
    result = eventually(lambda: ask("ledger", f"/bookings/{task}/").json()["result"], seconds=30)
    assert result["host"] == WORKER
    assert result["driver"].startswith("2.")
    assert ask("ledger", "/").json()["bookings"] == before + 1
    assert result["balance"] >= 5
    for host in APP_HOSTS:
        packages = "/opt/quintet/ledger/current/venv/lib/python3*/site-packages"
        linked = node(host).check_output(f"ldd {packages}/psycopg2/_psycopg*.so")
        assert "/libpq.so.5 " in linked, "it brought a libpq of its own"


@pytest.mark.parametrize("project", QUEUES)
def test_each_consumes_from_its_own_vhost(project):
    vhost = PROJECTS[project]["broker"]["vhost"]

    def consumers():
        queues = rabbitmqctl("list_queues", "-p", vhost, "name", "consumers")
        return {queue["name"]: queue["consumers"] for queue in queues if queue["name"] in QUEUES[project]}

    assert eventually(lambda: consumers() == QUEUES[project], seconds=30)


def test_nobody_uses_the_shared_vhost():
    assert [queue["name"] for queue in rabbitmqctl("list_queues", "-p", "rabbit", "name")] in ([], ["parked"])
