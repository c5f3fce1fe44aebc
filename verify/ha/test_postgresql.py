"""PostgreSQL on several hosts: who leads, what an acknowledged commit is worth, what is noticed of a lost host."""

import itertools
import json
import shlex
import threading
import time

import pytest

from verify import FIRST, TOPOLOGY, contract, deaf, deploy, eventually, killed, node, python_of
from verify.chaos import cluster
from verify.tiers import sql

HOSTS = TOPOLOGY.hosts("postgresql")
PORT, API_PORT = contract("database_port"), contract("patroni_api_port")
PROJECT = contract("projects")[0]
URL = contract("database_url", project=PROJECT)
TLS = f"sslmode=verify-full&sslrootcert={contract('authorities_file')}"
# Until its lock in etcd has run out (ttl, the role's) nobody takes the place of a silent leader; then the others must
# notice, and HAProxy.
TTL_SECONDS = 20
SILENT_SECONDS = TTL_SECONDS + 10


def members():
    """By its name what Patroni says of each member; it is asked of one that runs."""
    for host in HOSTS:
        found = node(host).run("timeout 10 patronictl -c /etc/patroni/config.yml list --format json")
        if found.rc == 0:
            return {member["Member"]: member for member in json.loads(found.stdout)}
    raise AssertionError("no host answers")


def leader():
    [name] = [name for name, member in members().items() if member["Role"] == "Leader" and member["State"] == "running"]
    return name


def followers():
    return [host for host in HOSTS if host != leader()]


def whole():
    """Whether one leads, and each of the others has a vote on what is acknowledged."""
    found = members()
    leads = [name for name, member in found.items() if member["Role"] == "Leader"]
    follow = [member for name, member in found.items() if name not in leads]
    return (
        (len(leads), len(follow)) == (1, len(HOSTS) - 1)
        and found[leads[0]]["State"] == "running"
        and all((member["Role"], member["State"]) == ("Quorum Standby", "streaming") for member in follow)
        and len({member["TL"] for member in found.values()}) == 1
        and not any(member.get("Pending restart") for member in found.values())
    )


@pytest.fixture(autouse=True)
def healthy():
    """All members are there, before and after."""
    eventually(whole, 60)
    yield
    eventually(whole, 120)


WRITE = """
import json, os, time
import psycopg

number, done, said, connection = 0, [], [], None
while not os.path.exists(given["end"]):
    try:
        if connection is None:
            connection = psycopg.connect(given["url"], connect_timeout=2, autocommit=True, tcp_user_timeout=5000)
            connection.add_notice_handler(lambda notice: said.append(notice.message_primary))
        number += 1
        said.clear()
        connection.execute("INSERT INTO quintet_writes VALUES (%s)", (number,))
        # A commit that was told not to wait for another member is acknowledged as well, but with a notice.
        done.append([number, time.time(), *said])
        time.sleep(0.02)
    except psycopg.Error as exc:
        connection = None
        time.sleep(0.1)
print(json.dumps(done))
"""
TABLE = """
import psycopg
with psycopg.connect(given["url"], connect_timeout=5, autocommit=True) as connection:
    cursor = connection.execute(given["statement"])
    print([row[0] for row in cursor] if cursor.description else cursor.statusmessage)
"""


def as_owner(statement):
    owner = contract("database_owner_url", project=PROJECT)
    result = python_of(PROJECT["name"], FIRST, TABLE, url=f"{owner}?{TLS}", statement=statement)
    assert result.rc == 0, result.stderr
    return result.stdout.strip()


class Writes:
    """An application that writes all the time, by HAProxy as applications do, within its `with`.

    Then it has `acknowledged`, the numbers that were, and `gap`, the longest time in which none was.
    """

    def __init__(self):
        self.end = f"/tmp/quintet-writes-{time.time_ns()}"
        self.thread = threading.Thread(target=self.run)

    def run(self):
        self.result = python_of(PROJECT["name"], FIRST, WRITE, url=f"{URL}?{TLS}", end=self.end)

    def __enter__(self):
        # HAProxy notices a new leader within two seconds.
        eventually(lambda: as_owner("CREATE TABLE IF NOT EXISTS quintet_writes (number bigint)"), 20)
        as_owner("TRUNCATE quintet_writes")
        self.thread.start()
        eventually(lambda: as_owner("SELECT count(*) > 20 FROM quintet_writes") == "[True]", 20)
        return self

    def __exit__(self, *failure):
        node(FIRST).check_output("touch %s", self.end)
        self.thread.join()
        node(FIRST).check_output("rm %s", self.end)
        assert self.result.rc == 0, self.result.stderr
        done = json.loads(self.result.stdout)
        assert not [said for _, _, *said in done if said]
        self.acknowledged = [number for number, *_ in done]
        moments = [moment for _, moment, *_ in done]
        self.gap = max(after - before for before, after in itertools.pairwise(moments))
        print(f"acknowledged {len(done)}, longest gap {self.gap:.1f} s")

    def assert_nothing_lost(self):
        kept = set(json.loads(eventually(lambda: as_owner("SELECT number FROM quintet_writes"), 20)))
        assert set(self.acknowledged) <= kept


@pytest.fixture(scope="module", autouse=True)
def no_table_left():
    yield
    # The last test may have left HAProxy in doubt about who leads, for a moment.
    eventually(lambda: as_owner("DROP TABLE IF EXISTS quintet_writes"), 30)


# -- What there is ----------------------------------------------------------------------------------------------------


def test_applications_reach_who_leads():
    where = "SELECT host(inet_server_addr()), pg_is_in_recovery()"
    for host in contract("app_hosts"):
        project = contract("host_projects", host)[0]
        address = f"{contract('database_url', host, project=project)}?{TLS}"
        found = python_of(project["name"], host, TABLE, url=address, statement=where).stdout.strip()
        assert found == f"['{contract('host_address', leader())}']"


def test_members_show_certificates():
    links = (
        "SELECT bool_and(ssl AND version = 'TLSv1.3' AND client_dn LIKE '/CN=%') "
        "FROM pg_stat_replication JOIN pg_stat_ssl USING (pid)"
    )
    assert sql(leader(), links) == "t"


ASK = """
import json, ssl, urllib.error, urllib.request
context = ssl.create_default_context(cafile=given["authorities"])
if given["identity"]:
    context.load_cert_chain(given["identity"])
request = urllib.request.Request(given["url"], given["body"] and given["body"].encode(), method=given["method"])
try:
    print(urllib.request.build_opener(urllib.request.HTTPSHandler(context=context)).open(request, timeout=5).status)
except urllib.error.HTTPError as exc:
    print(exc.code)
except OSError as exc:
    print(type(getattr(exc, "reason", exc)).__name__)
"""


def ask(host, url, identity, method="GET", body=None):
    """The status that Python on a host gets, or the name of its error."""
    authorities = f"/etc/{identity or 'patroni'}/authorities.pem"
    given = {"url": url, "authorities": authorities, "method": method, "body": body}
    given["identity"] = f"/etc/{identity}/identity.pem" if identity else None
    code = f"import json\ngiven = json.loads({json.dumps(given)!r})\n{ASK}"
    return node(host).check_output(f"python3 - <<'QUINTET'\n{code}\nQUINTET").strip()


def test_others_may_ask_patroni_who_leads_and_change_nothing():
    api = f"https://{HOSTS[0]}.{contract('service_domain')}:{API_PORT}"
    assert ask(HOSTS[1], f"{api}/patroni", "patroni") == "200"
    assert ask(HOSTS[1], f"{api}/patroni", None) != "200"
    assert ask(FIRST, f"{api}/patroni", "haproxy") == "200"
    assert ask(FIRST, f"{api}/config", "haproxy", "PATCH", '{"ttl": 20}') == "403"
    assert ask(HOSTS[1], f"{api}/config", "patroni", "PATCH", '{"ttl": 20}') == "200"


def test_etcd_speaks_with_members_alone():
    etcd = f"https://{HOSTS[0]}.{contract('service_domain')}:{contract('etcd_client_port')}"
    assert ask(HOSTS[1], f"{etcd}/health", "etcd") == "200"
    assert ask(HOSTS[1], f"{etcd}/health", None) != "200"
    # Its port is closed to applications.
    assert ask(FIRST, f"{etcd}/health", "haproxy") == "TimeoutError"


# -- What a commit is worth -------------------------------------------------------------------------------------------


def test_an_acknowledged_commit_is_on_another_member():
    for _ in range(5):
        written = sql(leader(), "SELECT pg_logical_emit_message(true, 'quintet', repeat('x', 100000))")
        received = [sql(host, f"SELECT pg_last_wal_receive_lsn() >= '{written}'") for host in followers()]
        assert "t" in received


@pytest.mark.slow
def test_without_another_member_nothing_is_acknowledged():
    first, others = leader(), followers()
    try:
        for host in others:
            node(host).check_output("systemctl stop patroni")
        write = "timeout 8 psql -Xqc 'SELECT pg_logical_emit_message(true, $$quintet$$, $$x$$)' postgres"
        assert node(first).run(f"su postgres -c {shlex.quote(write)}").rc == 124
        assert leader() == first
    finally:
        for host in others:
            node(host).check_output("systemctl start patroni")


# -- What breaks ------------------------------------------------------------------------------------------------------


def postmaster(host):
    data = f"/var/lib/postgresql/{contract('database_version')}/quintet"
    return node(host).check_output("head -1 %s/postmaster.pid", data)


@pytest.mark.slow
def test_postgresql_of_the_leader_is_killed():
    with Writes() as writes:
        first = leader()
        node(first).check_output("kill -KILL %s", postmaster(first))
        time.sleep(2)
        eventually(whole, 60)
        time.sleep(1)
    writes.assert_nothing_lost()
    assert writes.gap < 15
    # Who leads is no change for a deploy.
    assert deploy(limit="postgresql")[0] == 0


@pytest.mark.slow
def test_patroni_of_the_leader_is_killed():
    first = leader()
    with Writes() as writes:
        node(first).check_output("systemctl kill --kill-whom main --signal SIGKILL patroni")
        time.sleep(15)
    writes.assert_nothing_lost()
    # PostgreSQL goes on, and Patroni comes back to it; meanwhile HAProxy sends nobody there.
    assert writes.gap < 6
    assert leader() == first


@pytest.mark.slow
def test_the_leaders_host_is_lost():
    with Writes() as writes:
        first = leader()
        with killed(first):
            eventually(lambda: leader() != first, SILENT_SECONDS)
            time.sleep(5)
        eventually(whole, 60)
    writes.assert_nothing_lost()
    assert writes.gap < SILENT_SECONDS
    assert leader() != first


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_followers_host_is_lost(which):
    with Writes() as writes:
        with killed(followers()[which]):
            time.sleep(10)
        eventually(whole, 60)
    writes.assert_nothing_lost()
    assert writes.gap < 3


@pytest.mark.slow
def test_etcd_is_lost():
    """Its leader alone is noticed by nobody; all of it, not as long as the members reach each other."""
    unit = "etcd.service"
    first = leader()
    with Writes() as writes:
        for host in HOSTS:
            node(host).check_output("systemctl kill --signal SIGKILL %s", unit)
            time.sleep(4)
        try:
            for host in HOSTS:
                node(host).check_output("systemctl stop %s", unit)
            time.sleep(SILENT_SECONDS)
        finally:
            for host in HOSTS:
                node(host).check_output("systemctl start --no-block %s", unit)
        eventually(whole, 60)
    writes.assert_nothing_lost()
    assert writes.gap < 3
    assert leader() == first


@pytest.mark.slow
def test_etcd_is_led_by_another_host():
    """Who is lost with both is missed for longer: etcd's next leader gives each lock all its time again."""
    first, holder = leader(), cluster.leader("etcd")
    if first != holder:
        target = {"targetID": cluster.etcd(first)["header"]["member_id"]}
        path = "/v3/maintenance/transfer-leadership"
        cluster.ask(holder, "etcd", contract("etcd_client_port"), path, json.dumps(target))
    with Writes() as writes:
        eventually(lambda: cluster.leader("etcd") != first, 60)
    writes.assert_nothing_lost()
    assert writes.gap < 3


@pytest.mark.slow
def test_a_switchover():
    with Writes() as writes:
        first, second = leader(), followers()[0]
        cluster.switch(first, second)
        eventually(whole, 60)
        time.sleep(1)
    writes.assert_nothing_lost()
    assert leader() == second
    assert writes.gap < 10


@pytest.mark.slow
def test_a_switchover_does_not_wait_for_a_backup_host_that_does_not_answer():
    """It hands over what it wrote before it stops, and who takes over asks for what there is."""
    with Writes() as writes:
        first, second = leader(), followers()[0]
        leads = "SELECT host(inet_server_addr()) WHERE NOT pg_is_in_recovery()"
        with deaf(TOPOLOGY.hosts("backup")[0]):
            cluster.switch(first, second)
            eventually(lambda: as_owner(leads) == f"['{contract('host_address', second)}']", 40)
        eventually(whole, 60)
    writes.assert_nothing_lost()
    assert writes.gap < 30


# -- What is changed --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_setting_reaches_the_running_cluster():
    first = leader()
    started = {host: sql(host, "SELECT pg_postmaster_start_time()") for host in HOSTS}
    try:
        assert deploy(limit="postgresql", extra={"patroni_settings": {"work_mem": "5MB"}})[0] > 0
        assert [sql(host, "SHOW work_mem") for host in HOSTS] == ["5MB"] * len(HOSTS)
    finally:
        deploy(limit="postgresql")
    assert [sql(host, "SHOW work_mem") for host in HOSTS] != ["5MB"] * len(HOSTS)
    assert {host: sql(host, "SELECT pg_postmaster_start_time()") for host in HOSTS} == started
    assert leader() == first


@pytest.mark.slow
def test_a_setting_that_needs_a_restart_reaches_one_member_after_the_other():
    usual = sql(leader(), "SHOW max_connections")
    try:
        with Writes() as writes:
            deploy(limit="postgresql", extra={"patroni_max_connections": 120})
            assert [sql(host, "SHOW max_connections") for host in HOSTS] == ["120"] * len(HOSTS)
        writes.assert_nothing_lost()
        assert writes.gap < 15
        times = sorted((sql(host, "SELECT extract(epoch FROM pg_postmaster_start_time())"), host) for host in HOSTS)
        assert times[-1][1] == leader(), "a leader restarts last"
    finally:
        deploy(limit="postgresql")
    assert [sql(host, "SHOW max_connections") for host in HOSTS] == [usual] * len(HOSTS)
    assert deploy(limit="postgresql")[0] == 0


@pytest.mark.slow
def test_what_was_changed_by_hand_is_put_right():
    change = "patronictl -c /etc/patroni/config.yml edit-config --force --quiet --set ttl=33 --pg max_wal_senders=12"
    node(HOSTS[0]).check_output(change)
    assert deploy(limit="postgresql")[0] > 0
    found = node(HOSTS[0]).check_output("patronictl -c /etc/patroni/config.yml show-config")
    assert f"ttl: {TTL_SECONDS}\n" in found + "\n"
    assert "max_wal_senders" not in found
    assert deploy(limit="postgresql")[0] == 0


CONNECT = """
import psycopg, subprocess, time
shell = subprocess.Popen(["sh", "-c", given["meanwhile"]])
found = {"leader": 0, "follower": 0, "nobody": 0}
while shell.poll() is None:
    try:
        with psycopg.connect(given["url"], connect_timeout=3) as link:
            follows = link.execute("SELECT pg_is_in_recovery()").fetchone()[0]
        found["follower" if follows else "leader"] += 1
    except psycopg.OperationalError:
        found["nobody"] += 1
print(json.dumps(found))
"""


@pytest.mark.parametrize(
    ("meanwhile", "attributes", "answered"),
    [
        # Who may write nowhere else is led there also by a process that has only just begun.
        ("for time in 1 2 3 4; do systemctl reload haproxy; sleep 1; done", "any", True),
        # Nobody knows who leads then, but the application does not take another for it.
        (
            "for time in 1 2 3; do systemctl kill --kill-whom main --signal KILL haproxy; sleep 3; done",
            contract("project_environment", project=PROJECT)["PGTARGETSESSIONATTRS"],
            False,
        ),
    ],
    ids=["reload", "killed"],
)
def test_haproxy_that_begins_anew_leads_nobody_to_a_follower(meanwhile, attributes, answered):
    url = f"{URL}?{TLS}&target_session_attrs={attributes}"
    result = python_of(PROJECT["name"], FIRST, CONNECT, url=url, meanwhile=meanwhile)
    found = json.loads(result.stdout)
    print(found)
    assert found["leader"] > 20
    assert found["follower"] == 0
    assert not (answered and found["nobody"])


def test_a_leader_whose_patroni_is_slow_to_say_so_is_spoken_with_all_the_same():
    """It is asked whether it leads, and answers late when its host has a lot to do; PostgreSQL itself is well."""
    first, patroni = leader(), "systemctl kill --kill-whom main --signal {} patroni".format
    url = f"{URL}?{TLS}&target_session_attrs=any"
    node(first).check_output(patroni("STOP"))
    try:
        result = python_of(PROJECT["name"], FIRST, CONNECT, url=url, meanwhile="sleep 4")
    finally:
        node(first).check_output(patroni("CONT"))
    found = json.loads(result.stdout)
    assert (found["leader"] > 5, found["follower"], found["nobody"]) == (True, 0, 0), found
