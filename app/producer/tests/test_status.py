"""The status page tells what is broken, soon, whatever is broken; and many viewers cost one look."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from django.core.cache import cache
from django.db import connection, connections
from django.utils import timezone
from django_redis import get_redis_connection

from jobs import results
from jobs.models import Job, Outbox
from jobs.status import look, picture, questions, seen, watch
from producer.celery import app

from .conftest import REFUSED, until

pytestmark = pytest.mark.django_db(transaction=True)

TIERS = ["web", "postgresql", "rabbitmq", "redis", "worker"]


@pytest.fixture(autouse=True)
def quick(fresh_status, monkeypatch):
    """Workers answer in no time here."""
    monkeypatch.setattr(questions, "PING_SECONDS", 0.4)


@pytest.fixture
def use_postgresql():
    """Let new connections to PostgreSQL go elsewhere: `use_postgresql("127.0.0.1:1")`."""
    with pytest.MonkeyPatch.context() as patch:

        def use(address):
            host, _, port = address.partition(":")
            patch.setitem(connections.settings["default"], "HOST", host)
            patch.setitem(connections.settings["default"], "PORT", port)

        yield use


@pytest.fixture
def use_broker():
    """As the other one, but undone before what was there earlier is stopped, which is done through the broker."""
    with pytest.MonkeyPatch.context() as patch:

        def use(url):
            patch.setenv("CELERY_BROKER_URL", url)
            patch.setattr(app, "_pool", None)
            patch.setattr(app.amqp, "_producer_pool", None)

        yield use


def seen_at(client):
    """What /status.json says, by tier, within three seconds, and the page as well."""
    started = time.monotonic()
    response = client.get("/status.json")
    assert response.status_code == 200
    status = response.json()
    assert client.get("/status/").status_code == 200
    assert time.monotonic() - started < 3
    assert [tier["name"] for tier in status["tiers"]] == TIERS
    return status | {tier["name"]: tier for tier in status["tiers"]}


def broken(status):
    return {name: status[name]["words"] for name in TIERS if status[name]["state"] == "failing"}


@pytest.mark.usefixtures("worker")
def test_all_well(client):
    status = seen_at(client)
    assert broken(status) == {}
    assert (status["state"], status["headline"]) == ("ok", "All five tiers work")
    host = results.host()
    assert [(node["name"], node["detail"]) for node in status["web"]["nodes"]] == [(host, "pages · relay")]
    (server,) = status["postgresql"]["nodes"]
    assert re.fullmatch(r"[\d.:]+:5432", server["name"])
    assert re.match(r"primary · 17\.\d+ · \d+ connection", server["detail"])
    (server,) = status["redis"]["nodes"]
    assert "cache + results" in server["detail"]
    assert "master · 8." in server["detail"]
    (server,) = status["rabbitmq"]["nodes"]
    assert server["name"].startswith("rabbit@")
    assert all(status[name]["nodes"][0]["seconds"] < 1 for name in ("postgresql", "rabbitmq", "redis"))
    workers = [(node["name"], node["detail"].split(" · ")[0]) for node in status["worker"]["nodes"]]
    assert workers == [("worker1", "results"), ("worker1", "service")]
    assert status["queues"] == [
        {"name": name, "messages": 0, "consumers": 1} for name in ("service", "results", "parked")
    ]
    assert status["outbox"] == {"length": 0, "oldest_seconds": None}
    assert status["jobs"] == {"waiting": 0, "failed": 0, "parked": 0}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("fault", "words"), [("refuse", "refuses connections"), ("hush", "does not answer in time")])
def test_postgresql_is_down(client, proxy, use_postgresql, fault, words):
    postgresql = proxy("DATABASE_URL")
    getattr(postgresql, fault)()
    use_postgresql(postgresql.address)
    status = seen_at(client)
    assert broken(status) == {"postgresql": words}
    assert status["headline"] == f"PostgreSQL: {words}"
    assert status["postgresql"]["effect"] == "No job is accepted until PostgreSQL is back."
    assert status["outbox"] is status["jobs"] is status["roundtrips"] is None


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("fault", "words"), [("refuse", "refuses connections"), ("hush", "does not answer in time")])
def test_redis_is_down(client, proxy, use_redis, fault, words):
    redis = proxy("CACHE_URL")
    use_redis(redis.address)
    getattr(redis, fault)()
    status = seen_at(client)
    assert broken(status) == {"redis": words}
    assert status["redis"]["effect"] == "No job is lost. Results only take longer to show."


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("fault", "words"), [("refuse", "refuses connections"), ("hush", "does not answer in time")])
def test_rabbitmq_is_down(client, proxy, use_broker, fault, words):
    seen_at(client)
    rabbitmq = proxy("CELERY_BROKER_URL")
    use_broker(rabbitmq.url)
    getattr(rabbitmq, fault)()
    status = until(lambda: (found := seen_at(client))["state"] != "ok" and found)
    assert broken(status) == {"rabbitmq": words}
    # Whether they live nobody knows; that they are there is not forgotten.
    assert status["worker"]["state"] == "unknown"
    assert [node["state"] for node in status["worker"]["nodes"]] == ["unknown", "unknown"]


def test_everything_is_down(client, use_postgresql, use_redis, use_broker):
    use_postgresql(REFUSED)
    use_redis(REFUSED)
    use_broker(f"amqp://user:secret@{REFUSED}/rabbit")
    status = seen_at(client)
    assert broken(status).keys() == {"postgresql", "rabbitmq", "redis"}
    assert status["headline"] == "PostgreSQL, RabbitMQ and Redis fail"
    # Nothing is said that is not so: without PostgreSQL, no job is accepted and kept.
    assert [tier["effect"] for tier in status["tiers"] if tier["effect"]] == [status["postgresql"]["effect"]]
    assert "secret" not in str(status)
    assert "quintet:quintet" not in str(status)


@pytest.mark.usefixtures("silent")
def test_everything_is_silent(client, silent, use_postgresql, use_redis, use_broker):
    use_postgresql(silent)
    use_redis(silent)
    use_broker(f"amqp://{silent}")
    assert broken(seen_at(client)).keys() == {"postgresql", "rabbitmq", "redis"}


def test_a_login_that_is_refused(client, use_redis, use_broker, use_postgresql, monkeypatch):
    use_redis("{}:{}".format(*_place("CACHE_URL")), password="wrong")
    use_broker("amqp://quintet:wrong@{}:{}/producer".format(*_place("CELERY_BROKER_URL")))
    monkeypatch.setitem(connections.settings["default"], "PASSWORD", "wrong")
    assert set(broken(seen_at(client)).values()) == {"refuses our login"}


def _place(variable):
    url = urlsplit(
        django_settings.CELERY_BROKER_URL if "BROKER" in variable else django_settings.CACHES["default"]["LOCATION"]
    )
    return url.hostname, url.port


@pytest.mark.usefixtures("relay")
def test_nobody_takes_the_jobs(client, home):
    status = seen_at(client)
    assert broken(status) == {"worker": "nobody takes the jobs"}
    assert status["worker"]["effect"] == "Jobs are accepted, and wait until a worker is back."


@pytest.mark.usefixtures("relay", "service")
def test_nobody_brings_the_results_home(client):
    assert broken(seen_at(client)) == {"worker": "nobody brings the results home"}


@pytest.mark.usefixtures("service", "home")
def test_no_relay_runs(client):
    Outbox.objects.create(task_id="1", task="x", created_at=timezone.now() - timedelta(seconds=60))
    status = seen_at(client)
    assert broken(status) == {"web": "no relay runs"}
    assert status["outbox"]["length"] == 1
    assert 60 <= status["outbox"]["oldest_seconds"] < 65


def test_a_queue_that_is_not_there(client, channel, monkeypatch):
    monkeypatch.setattr(questions, "QUEUES", ("service", "nothing"))
    status = seen_at(client)
    assert (status["rabbitmq"]["state"], status["rabbitmq"]["words"]) == ("warning", "has no queue nothing")


def test_the_page_asks_for_no_session(client, django_assert_num_queries, settings):
    settings.RESULT_WAIT_SECONDS = 0
    client.post("/", {"first": "a", "second": "b"})
    client.get("/status/")
    cache.clear()  # the session is in PostgreSQL only
    with django_assert_num_queries(0, connection=connection):
        assert client.get("/status/").status_code == 200


def test_roundtrips_are_those_of_the_latest_jobs_without_what_they_asked_for():
    def done(seconds, **values):
        finished = timezone.now()
        created = finished - timedelta(seconds=seconds)
        Job.objects.create(first="a", second="b", state="done", created_at=created, finished_at=finished, **values)

    done(0.1)
    done(7.2, work_seconds=5, delay_seconds=2)
    done(50, attempt=2)
    done(-1)
    assert questions.roundtrips() == pytest.approx([0.1, 0.2, 0.001])
    for _ in range(questions.ROUNDTRIPS):
        done(0.3)
    assert questions.roundtrips() == pytest.approx([0.3] * questions.ROUNDTRIPS)


# Who was seen


def test_other_web_hosts_are_seen_and_missed(monkeypatch):
    redis = get_redis_connection("default")
    monkeypatch.setattr(seen, "_here", {})
    seen.note(["web@web2", "service@worker2"], redis)  # by another web host
    monkeypatch.setattr(seen, "_here", {})
    ages = seen.note(["web@web1"], redis)
    assert set(ages) == {"web@web1", "web@web2", "service@worker2"}
    assert max(ages.values()) < 1
    redis.zadd(seen.KEY, {"web@web2": time.time() - 60, "service@worker2": time.time() - seen.FORGET_SECONDS - 1})
    monkeypatch.setattr(seen, "_here", {})
    ages = seen.note(["web@web1"], redis)
    assert set(ages) == {"web@web1", "web@web2"}
    assert 60 <= ages["web@web2"] < 62


def test_who_was_seen_is_known_without_redis(use_redis):
    use_redis(REFUSED)
    seen.note(["service@worker1"], get_redis_connection("default"))
    assert "service@worker1" in seen.note([], None)


def test_the_heartbeat_goes_on(monkeypatch, use_redis):
    beats = []

    def stop_after_two(seconds):
        beats.append(seconds)
        if len(beats) == 2:
            raise InterruptedError

    monkeypatch.setattr(time, "sleep", stop_after_two)
    redis = get_redis_connection("default")
    with pytest.raises(InterruptedError):
        seen.beat()
    assert redis.zscore(seen.KEY, seen.WEB)
    use_redis(REFUSED)
    beats.clear()
    with pytest.raises(InterruptedError):
        seen.beat()


TABLES = {"relays": ["web1", "web3"], "outbox": {"length": 0, "oldest_seconds": None}}


def test_web_hosts_and_their_relays():
    tier = look.web_tier(TABLES, {"web@web1": 1, "web@web2": 2, "web@web4": 60, "service@web5": 1})
    nodes = [(node["name"], node["state"], node["detail"]) for node in tier["nodes"]]
    assert nodes == [
        ("web1", "ok", "pages · relay"),
        ("web2", "warning", "pages · no relay"),
        ("web3", "warning", "no pages · relay"),
        ("web4", "failing", "silent for 60 s"),
    ]
    assert (tier["state"], tier["words"]) == ("failing", "a host is silent")


def test_an_outbox_that_is_not_emptied_is_a_warning():
    tables = TABLES | {"relays": ["web1"], "outbox": {"length": 1, "oldest_seconds": look.OUTBOX_SECONDS + 1}}
    tier = look.web_tier(tables, {"web@web1": 1})
    assert (tier["state"], tier["words"]) == ("warning", "tasks wait in the outbox")


@pytest.mark.parametrize(("age", "state"), [(2, "warning"), (look.SILENT_SECONDS + 1, "failing")])
def test_a_worker_that_hangs_is_missed_after_a_while(age, state):
    broker = {"queues": [{"name": "service", "consumers": 2}, {"name": "results", "consumers": 1}]}
    said = {"service@worker1": {"processes": 2, "tasks": 7}}
    tier = look.worker_tier(said, broker, {"web@web1": 0, "service@worker1": 0, "service@worker2": age})
    nodes = [(node["name"], node["state"], node["detail"]) for node in tier["nodes"]]
    assert nodes == [
        ("worker1", "ok", "service · 2 at once · 7 done"),
        ("worker2", state, f"service · silent for {age} s"),
    ]
    assert tier["state"] == state


def test_a_replica_takes_no_writes():
    said = {"name": "x", "role": "replica", "version": "17", "connections": 1, "seconds": 0.001}
    assert look.postgresql_tier(said, None)["state"] == "failing"


# Many viewers, one look


@pytest.fixture
def looks(monkeypatch):
    """How often somebody looked."""
    calls = []
    real = watch.look

    def counted(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(watch, "look", counted)
    return calls


def test_many_viewers_cost_one_look(looks, new_watch):
    mine = new_watch()
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: mine.current()["at"], range(40)))
    assert len(set(found)) == 1
    # Another process finds it in Redis.
    until(lambda: get_redis_connection("default").exists(watch.SHARED))
    assert new_watch().current()["at"] == found[0]
    assert len(looks) == 1


def test_while_somebody_asks_the_look_is_renewed_in_the_background(looks, new_watch, monkeypatch):
    monkeypatch.setattr(watch, "FRESH_SECONDS", 0.1)
    monkeypatch.setattr(watch, "WATCHED_SECONDS", 1)
    mine, other = new_watch(), new_watch()
    shown = {mine.current()["at"]}
    until(lambda: get_redis_connection("default").exists(watch.SHARED))
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        started = time.monotonic()
        shown |= {mine.current()["at"], other.current()["at"]}
        assert time.monotonic() - started < 0.3  # nobody waits for it
        time.sleep(0.05)
    # A look takes half a second, so that two who take turns come to about seven, and two who do not to twice as many.
    assert len(shown) >= 3
    assert len(looks) <= 10
    until(lambda: not mine._watching and not other._watching)
    count = len(looks)
    time.sleep(0.3)
    assert len(looks) == count


def test_a_look_that_is_too_old_is_not_shown(new_watch, monkeypatch):
    monkeypatch.setattr(watch, "FRESH_SECONDS", 0)
    monkeypatch.setattr(watch, "WATCHED_SECONDS", -1)
    mine = new_watch()
    first = mine.current()["at"]
    until(lambda: not mine._watching)
    assert mine.current()["at"] == first
    until(lambda: not mine._watching)
    monkeypatch.setattr(watch, "STALE_SECONDS", 0.5)
    time.sleep(0.6)
    get_redis_connection("default").delete(watch.SHARED)
    assert mine.current()["at"] != first


def test_a_watch_that_breaks_starts_anew(new_watch, monkeypatch):
    mine = new_watch()
    real = watch.look
    monkeypatch.setattr(watch, "look", lambda *args: [1 / 0])
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    assert mine.current() is None
    monkeypatch.setattr(watch, "PATIENCE_SECONDS", 2)
    monkeypatch.setattr(watch, "look", real)
    assert mine.current()["tiers"]


def test_a_question_that_hangs_is_not_asked_twice(monkeypatch):
    asked, go_on = [], threading.Event()

    def hang():
        asked.append(1)
        go_on.wait()

    monkeypatch.setattr(questions, "QUESTIONS", {"redis": hang})
    for _ in range(3):
        started = time.monotonic()
        assert questions.ask(0.1) == {"redis": (None, questions.NO_ANSWER)}
        assert time.monotonic() - started < 2
    assert len(asked) == 1
    go_on.set()
    until(lambda: questions.ask(0.1)["redis"][0] is None and len(asked) == 2)


# The picture


def status_with(hosts):
    def tier(name, count, state="ok"):
        nodes = [
            {
                "name": f"{name}{number}.with-a-very-long-name.example",
                "state": state,
                "detail": "x" * 80,
                "seconds": 0.01,
            }
            for number in range(count)
        ]
        return {"name": name, "title": name.title(), "state": state, "words": "works", "nodes": nodes}

    return {
        "tiers": [tier(name, hosts.get(name, 1)) for name in TIERS],
        "queues": [
            {"name": "service", "messages": 123456, "consumers": 1},
            {"name": "x", "messages": None, "consumers": 0},
        ],
        "outbox": {"length": 10000, "oldest_seconds": 11.0},
    }


@pytest.mark.parametrize("draw", [picture.wide, picture.tall])
@pytest.mark.parametrize(
    "hosts", [{}, {"web": 5, "worker": 30}, {"postgresql": 3, "redis": 6}, {"worker": 0, "redis": 0}]
)
def test_boxes_keep_their_distance_and_stay_inside(draw, hosts):
    drawn = draw(status_with(hosts))
    boxes = [(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in drawn["boxes"]]
    assert len(boxes) == 5
    for one in boxes:
        assert 0 <= one[0] < one[2] <= drawn["width"]
        assert 0 <= one[1] < one[3] <= drawn["height"]
        for other in boxes:
            apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
            assert one is other or apart
    assert len(drawn["lines"]) == 6
    for box in drawn["boxes"]:
        for row in box["rows"]:
            assert row["y"] + picture.ROW <= box["height"]
            assert len(row["text"]) + len(row["value"]) <= (box["width"] - 60) / 7
            assert len(row["detail"]) <= (box["width"] - 60) / 6


def test_a_line_to_a_tier_that_fails_carries_nothing():
    status = status_with({})
    status["tiers"][3]["state"] = "failing"
    assert [line["state"] for line in picture.wide(status)["lines"]] == ["ok"] * 4 + ["failing"] * 2


def test_a_plot_says_what_is_usual():
    plot = picture.plot([0.01] * 94 + [0.1] * 5 + [20])
    assert (plot["count"], plot["median"], plot["most"], plot["slowest"]) == (100, 0.01, 0.1, 20)
    assert [mark["text"] for mark in plot["scale"]] == ["10 ms", "100 ms", "1 s", "10 s", "100 s"]
    assert plot["dots"][0]["x"] == 0
    assert plot["dots"][-1]["x"] == 100
    heights = [dot["y"] for dot in plot["dots"]]
    assert heights[0] == plot["median_y"] == max(heights)
    assert min(heights) == heights[-1] > 0


@pytest.mark.parametrize("seconds", [[0.001], [0.5, 0.5], [0.0123], [3000, 0.001]])
def test_every_plot_has_a_scale_around_its_dots(seconds):
    plot = picture.plot(seconds)
    marks = [mark["y"] for mark in plot["scale"]]
    assert all(min(marks) <= dot["y"] <= max(marks) for dot in plot["dots"])


def test_no_plot_without_jobs():
    assert picture.plot([]) is picture.plot(None) is None


def test_the_page_shows_it_in_words_shapes_and_numbers(client):
    text = client.get("/status/").content.decode()
    assert text.count('<svg class="picture') == 2
    for title in ("Web", "PostgreSQL", "RabbitMQ", "Redis", "Workers"):
        assert f"<strong>{title}</strong>" in text
    assert 'href="#sign-failing"' in text
    assert ">fails</text>" in text
    html = client.get("/status.json").json()["html"]
    assert html.strip().startswith("<section")
    assert app.conf.broker_url not in html
