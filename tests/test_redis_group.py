"""The parts of redis_group that decide: who is master at a first start, whose turn it is to restart, what differs."""

import io
import os
import pwd
import sys
import types

import pytest

from tests.samples import module

group = module("redis_group")
ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
HOSTS = [{"name": f"data{number}.example", "address": f"192.0.2.{number}"} for number in (1, 2, 3)]

# -- The protocol -----------------------------------------------------------------------------------------------------


def test_a_command_is_words_of_any_bytes():
    assert group.encoded(["AUTH", "ñ", 1]) == b"*3\r\n$4\r\nAUTH\r\n$2\r\n\xc3\xb1\r\n$1\r\n1\r\n"


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (b"+OK\r\n", "OK"),
        (b":12\r\n", "12"),
        (b"$-1\r\n", None),
        (b"$0\r\n\r\n", ""),
        (b"$5\r\na\r\nb:\r\n", "a\r\nb:"),
        (b"*-1\r\n", None),
        (b"*2\r\n$1\r\na\r\n*1\r\n+b\r\n", ["a", ["b"]]),
    ],
)
def test_answers(answer, meaning):
    file = io.BytesIO(answer + b"+next\r\n")
    assert group.decoded(file) == meaning
    assert group.decoded(file) == "next"


def test_an_answer_that_is_an_error_is_raised():
    with pytest.raises(group.Refused, match="WRONGPASS invalid"):
        group.decoded(io.BytesIO(b"-WRONGPASS invalid\r\n"))


@pytest.mark.parametrize("answer", [b"", b"+O"])
def test_a_connection_that_ends_is_an_error(answer):
    with pytest.raises(ConnectionError):
        group.decoded(io.BytesIO(answer))


INFO = """# Replication\r
role:master\r
connected_slaves:3\r
min_slaves_good_slaves:2\r
slave0:ip=192.0.2.2,port=6379,state=online,offset=90,lag=0\r
slave1:ip=192.0.2.3,port=6379,state=online,offset=100,lag=1\r
slave2:ip=192.0.2.4,port=6379,state=wait_bgsave,offset=0,lag=0\r
master_repl_offset:100\r
"""


def test_what_a_master_says_of_its_replicas():
    info = group.facts(INFO)
    assert (info["role"], info["min_slaves_good_slaves"]) == ("master", "2")
    assert group.offsets(info) == (100, [90, 100])


# -- The first start --------------------------------------------------------------------------------------------------


def test_the_newest_word_of_sentinels_counts():
    assert group.newest([]) is None
    assert group.newest([(2, ONE, "6379"), (10, TWO, "6379"), (3, THREE, "6379")]) == (TWO, "6379")


@pytest.mark.parametrize(
    ("told", "mine", "address", "master"),
    [
        (None, None, ONE, ONE),
        (None, None, THREE, ONE),
        ((TWO, "6379"), None, ONE, TWO),
        ((TWO, "6379"), None, THREE, TWO),
        # All was lost here, and the others have not noticed yet: they have what was written.
        ((ONE, "6379"), None, ONE, TWO),
        ((THREE, "6379"), None, THREE, ONE),
        # Only Sentinel's file is missing.
        ((ONE, "6379"), ONE, ONE, ONE),
        (None, TWO, ONE, TWO),
        (None, THREE, THREE, THREE),
    ],
)
def test_who_is_master_for_a_host_that_begins(told, mine, address, master):
    assert group.chosen(told, mine, HOSTS, address) == master


@pytest.mark.parametrize(
    ("text", "master"),
    [
        ("", ONE),
        ("# replicaof 192.0.2.9 1\nmaxmemory 1\n", ONE),
        ("maxmemory 1\nreplicaof 192.0.2.2 6379\n", TWO),
        ('slaveof "192.0.2.3" 6379', THREE),
    ],
)
def test_the_master_in_a_daemons_file(text, master):
    assert group.master_of(text, ONE) == master


def test_only_whom_it_follows_is_remembered():
    assert group.remembered("# x\nhz 20\nreplicaof 192.0.2.2 6379\n\nmasterauth y\n") == "replicaof 192.0.2.2 6379\n"
    assert group.remembered("hz 20\n") == ""


def seeder(tmp_path, monkeypatch, told, host=0, check_mode=False):
    """A group of two instances on a host, with its files in tmp_path; the other Sentinels say `told`."""
    monkeypatch.setattr(group.pwd, "getpwnam", lambda _: pwd.getpwuid(os.getuid()))
    params = {
        "directory": str(tmp_path),
        "hosts": HOSTS,
        "instances": [{"name": "results", "port": 6379}, {"name": "cache", "port": 6380}],
    }
    made = object.__new__(group.Group)
    made.module = types.SimpleNamespace(params=params, check_mode=check_mode)
    made.params, made.actions, made.quorum = params, [], 2
    made.hosts, made.me = {one["name"]: one for one in HOSTS}, HOSTS[host]
    made.told = lambda names: {name: told.get(name) for name in names}
    return made


def contents(tmp_path):
    """The files there, without the line that says whose they are."""
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert all(text.startswith(group.HEADER) for text in found.values())
    return {name: text.removeprefix(group.HEADER) for name, text in found.items()}


def test_the_first_host_is_master_where_nobody_knows_better(tmp_path, monkeypatch):
    watched = f"sentinel monitor results {ONE} 6379 2\nsentinel monitor cache {ONE} 6380 2\n"
    for host, lines in enumerate((("", ""), *[(f"replicaof {ONE} 6379\n", f"replicaof {ONE} 6380\n")] * 2)):
        directory = tmp_path / str(host)
        directory.mkdir()
        seeder(directory, monkeypatch, {}, host).seed()
        assert contents(directory) == {"results.conf": lines[0], "cache.conf": lines[1], "sentinel.conf": watched}
        assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o640}


def test_a_host_that_was_replaced_is_a_replica_of_each_master(tmp_path, monkeypatch):
    told = {"results": (TWO, "6379"), "cache": (THREE, "6380")}
    seeder(tmp_path, monkeypatch, told).seed()
    assert contents(tmp_path) == {
        "results.conf": f"replicaof {TWO} 6379\n",
        "cache.conf": f"replicaof {THREE} 6380\n",
        "sentinel.conf": f"sentinel monitor results {TWO} 6379 2\nsentinel monitor cache {THREE} 6380 2\n",
    }


def test_a_master_that_was_replaced_waits_until_another_host_is_one(tmp_path, monkeypatch):
    one = seeder(tmp_path, monkeypatch, {})
    words = iter([{"results": (ONE, "6379"), "cache": None}, {"results": (THREE, "6379"), "cache": None}])
    one.told = lambda names: next(words)
    one.seed()
    assert contents(tmp_path)["results.conf"] == f"replicaof {THREE} 6379\n"
    assert next(words, None) is None


def test_a_master_that_was_replaced_is_none_of_its_followers_followers(tmp_path, monkeypatch):
    monkeypatch.setattr(group, "FAILOVER_SECONDS", 0.1)
    one = seeder(tmp_path, monkeypatch, {"results": (ONE, "6379"), "cache": (TWO, "6380")})
    said = []
    one.fail = lambda message: said.append(message) or sys.exit(1)
    with pytest.raises(SystemExit):
        one.seed()
    assert "has lost what it had of results, and is still taken for the master" in said[0]
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_the_daemons(tmp_path, monkeypatch):
    (tmp_path / "results.conf").write_text(f"{group.HEADER}replicaof {THREE} 6379\n")
    (tmp_path / "cache.conf").write_text(group.HEADER)
    before = contents(tmp_path)
    one = seeder(tmp_path, monkeypatch, {})
    one.seed()
    after = contents(tmp_path)
    assert (
        after.pop("sentinel.conf") == f"sentinel monitor results {THREE} 6379 2\nsentinel monitor cache {ONE} 6380 2\n"
    )
    assert after == before
    assert one.actions == [f"seed {tmp_path}/sentinel.conf"]
    # And nobody is asked when nothing is missing.
    again = seeder(tmp_path, monkeypatch, {})
    again.told = None
    again.seed()
    assert again.actions == []


def test_check_mode_seeds_nothing(tmp_path, monkeypatch):
    one = seeder(tmp_path, monkeypatch, {}, check_mode=True)
    one.seed()
    assert len(one.actions) == 3
    assert not list(tmp_path.iterdir())


# -- While it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "role", "others", "may"),
    [
        (1, "slave", [(0, "master", False), (2, "slave", False)], True),
        (2, "slave", [(0, "master", False), (1, "slave", False)], False),
        (2, "slave", [(0, "master", False), (1, "slave", True)], True),
        # Wherever it stands, the master is last.
        (0, "master", [(1, "slave", True), (2, "slave", False)], False),
        (0, "master", [(1, "slave", True), (2, "slave", True)], True),
        (2, "slave", [(0, "slave", True), (1, "master", False)], True),
        # Who does not answer may be restarting.
        (2, "slave", [(0, "master", False), (1, None, False)], False),
        # Alone in this deploy.
        (0, "master", [], True),
        (2, "slave", [], True),
    ],
)
def test_whose_turn_it_is(place, role, others, may):
    assert group.may_restart(place, role, others) is may


def test_only_what_differs_is_set(tmp_path, monkeypatch):
    one = seeder(tmp_path, monkeypatch, {})
    one.params["masterauth"] = "new"
    said = []
    own = types.SimpleNamespace(ask=lambda *words: said.append(words))
    instance = {"name": "results", "settings": {"maxmemory": 9, "appendonly": "yes", "bind": "127.0.0.1"}}
    running = {"maxmemory": "8", "appendonly": "yes", "bind": "127.0.0.1", "masterauth": "old", "other": "x"}
    one.set(instance, own, running)
    assert said == [("CONFIG", "SET", "masterauth", "new", "maxmemory", "9")]
    assert one.actions == ["set masterauth, maxmemory of results"]
    one.set(instance, own, running | {"maxmemory": "9", "masterauth": "new"})
    assert len(said) == len(one.actions) == 1


def test_until(monkeypatch):
    monkeypatch.setattr(group.time, "sleep", lambda _: None)
    answers = iter([ConnectionRefusedError(), group.Refused("LOADING"), "", "found"])

    def check():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert group.until(check, 5) == "found"
    assert not group.until(lambda: None, 0)


# -- Another master ---------------------------------------------------------------------------------------------------


def group_of_three(tmp_path, monkeypatch, wanted):
    """A group whose first host is master of `results`, of which all follow; and what was said to it, and by whom."""
    monkeypatch.setattr(group.time, "sleep", lambda _: None)
    one, said = seeder(tmp_path, monkeypatch, {}), []
    priorities = {host["address"]: group.USUAL for host in HOSTS}

    def link(host, port):
        def ask(*words):
            said.append((host["name"], *words))
            if words[:2] == ("SENTINEL", "GET-MASTER-ADDR-BY-NAME"):
                return [one.leads, "6379"]
            if words[:2] == ("SENTINEL", "REPLICAS"):
                return [["ip", ip, "slave-priority", number] for ip, number in priorities.items() if ip != one.leads]
            priorities[host["address"]] = words[-1]

        info = {"role": "master" if host["address"] == one.leads else "slave", "min_slaves_good_slaves": "2"}
        return types.SimpleNamespace(ask=ask, info=lambda section: info)

    one.leads, one.link, one.params = ONE, link, one.params | {"next_master": wanted, "sentinel_port": 26379}
    return one, said, priorities


def test_who_leads_already_stays(tmp_path, monkeypatch):
    one, _, _ = group_of_three(tmp_path, monkeypatch, "data1.example")
    one.hand_over = None
    assert one.move({"name": "results", "port": 6379}) == ["data1.example", "data1.example"]
    assert one.actions == []


@pytest.mark.parametrize(("wanted", "kept_out"), [("data3.example", [TWO]), ("", [])])
def test_all_but_who_is_wanted_are_kept_out_until_it_leads(tmp_path, monkeypatch, wanted, kept_out):
    one, _, priorities = group_of_three(tmp_path, monkeypatch, wanted)

    def hand_over(instance, master):
        assert [address for address, number in priorities.items() if number == group.NEVER] == kept_out
        assert master["address"] == ONE
        one.leads = THREE

    one.hand_over = hand_over
    assert one.move({"name": "results", "port": 6379}) == ["data1.example", "data3.example"]
    assert set(priorities.values()) == {group.USUAL}


def test_nobody_stays_kept_out_where_it_fails(tmp_path, monkeypatch):
    one, _, priorities = group_of_three(tmp_path, monkeypatch, "data3.example")

    def fail_json(**said):
        raise SystemExit(said["msg"])

    one.module.fail_json, one.hand_over = fail_json, lambda instance, master: None
    with pytest.raises(SystemExit, match=r"Nobody could take over results from data1\.example"):
        one.move({"name": "results", "port": 6379})
    assert set(priorities.values()) == {group.USUAL}
