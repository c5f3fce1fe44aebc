"""Whom PostgreSQL admits, and what it runs with."""

from shlex import quote

import psycopg
import pytest

from verify import TOPOLOGY, contract, deploy, manage, node, python_of
from verify.tiers import PATRONI, database_host, sql

WEB, WORKER = TOPOLOGY.hosts("web")[0], TOPOLOGY.hosts("worker")[0]
CONNECT = """
import psycopg
try:
    with psycopg.connect(given["url"], connect_timeout=5) as connection:
        print(connection.execute("SELECT current_user || '@' || current_database()").fetchone()[0])
except psycopg.OperationalError as exc:
    print(exc)
"""


def url(name, which="database_url", **more):
    """Of a project, or of its database's owner."""
    project = next(project for project in contract("projects") if project["name"] == name)
    return contract(which, project=project, **more)


def connect(host, project, url):
    return python_of(project, host, CONNECT, url=url).stdout.strip()


def test_each_project_reaches_its_own_database():
    assert connect(WEB, "producer", url("producer")) == "producer@producer"
    assert connect(WORKER, "service", url("service")) == "service@service"


def test_nobody_is_let_in_without_encryption():
    assert "no encryption" in connect(WEB, "producer", url("producer") + "?sslmode=disable")


LINK = """
import json
from django.db import connection
connection.ensure_connection()
link = connection.connection.pgconn
given = {option.keyword.decode(): (option.val or b"").decode() for option in link.info}
print(json.dumps({name: given[name] for name in ("sslmode", "sslrootcert")}))
"""


def test_a_service_speaks_with_none_but_the_server():
    """As the environment makes it; and so a certificate in another name is refused."""
    seen = manage(WEB, "producer", "shell", "--no-imports", "--command", LINK)
    assert seen == {"sslmode": "verify-full", "sslrootcert": contract("authorities_file")}
    other = url("producer").replace(contract("service_names.database"), contract("proxy_address"))
    more = "&".join(f"{name}={value}" for name, value in seen.items())
    assert connect(WEB, "producer", f"{url('producer')}?{more}") == "producer@producer"
    assert "does not match host name" in connect(WEB, "producer", f"{other}?{more}")


def test_no_project_reaches_anothers_database():
    foreign = url("service").replace("/service", "/producer").replace("//producer", "//service")
    assert foreign.endswith("/producer")
    assert "no pg_hba.conf entry" in connect(WORKER, "service", foreign)


@pytest.mark.skipif(WEB == WORKER, reason="one host is both")
def test_a_database_admits_only_the_hosts_of_its_project():
    # The producer has a worker, but the service no web server.
    assert connect(WEB, "producer", url("producer")) == "producer@producer"
    assert "no pg_hba.conf entry" in connect(WEB, "producer", url("service"))


def test_wrong_password_and_superuser_are_refused():
    wrong = url("service", database_passwords={"service": "wrong"})
    assert "password authentication failed" in connect(WORKER, "service", wrong)
    superuser = f"postgresql://postgres@{contract('service_names.database')}:{contract('database_port')}/postgres"
    assert "no pg_hba.conf entry" in connect(WORKER, "service", superuser)


def test_a_stranger_is_refused():
    # This machine is no host of the topology.
    stranger = url("producer").replace(contract("service_names.database"), contract("host_address", database_host()))
    with pytest.raises(psycopg.OperationalError, match=r"timeout expired|Connection refused"):
        psycopg.connect(stranger, connect_timeout=5)


TABLES = """
import psycopg
with psycopg.connect(given["url"], connect_timeout=5, autocommit=True) as connection:
    for statement in given["statements"]:
        try:
            connection.execute(statement)
            print("done")
        except psycopg.Error as exc:
            print(type(exc).__name__)
"""


def test_a_service_works_in_tables_that_are_not_its_own():
    statements = [
        "CREATE TEMPORARY TABLE x (y int)",
        "DELETE FROM jobs_job WHERE false",
        "CREATE TABLE x (y int)",
        "CREATE SCHEMA x",
        "CREATE FUNCTION public.x() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "ALTER TABLE jobs_job ADD COLUMN x int",
        "DROP TABLE jobs_job",
        "TRUNCATE jobs_job",
        "SET ROLE producer_owner",
        "CREATE ROLE x",
        "COPY jobs_job TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT rolpassword FROM pg_authid",
    ]
    seen = python_of("producer", WEB, TABLES, url=url("producer"), statements=statements).stdout.split()
    assert seen == ["done"] * 2 + ["InsufficientPrivilege"] * (len(statements) - 2)


def test_an_owner_makes_tables_for_its_service():
    """On the first host alone; and what it makes at any time, the service may use."""
    owner = url("producer", "database_owner_url")
    made = ["CREATE TABLE quintet_made (id serial, y int)", "CREATE ROLE x"]
    used = ["INSERT INTO quintet_made (y) VALUES (1)", "DROP TABLE quintet_made"]
    try:
        assert python_of("producer", WEB, TABLES, url=owner, statements=made).stdout.split() == [
            "done",
            "InsufficientPrivilege",
        ]
        assert python_of("producer", WEB, TABLES, url=url("producer"), statements=used).stdout.split() == [
            "done",
            "InsufficientPrivilege",
        ]
    finally:
        assert python_of("producer", WEB, TABLES, url=owner, statements=used[1:]).stdout == "done\n"
    if WEB != WORKER:
        assert "no pg_hba.conf entry" in connect(WORKER, "producer", owner)
        machine = node(WORKER)
        assert not machine.file(f"{contract('projects_directory')}/producer/environment.owner").exists
        assert "first host" in machine.run("quintet-manage --owner producer check").stderr
    assert "Error" not in node(WEB).check_output("quintet-manage --owner producer migrate --check")


@pytest.mark.alike
def test_drift_is_put_right():
    drift = (
        "REVOKE UPDATE ON jobs_job FROM producer; GRANT CREATE ON SCHEMA public TO producer; "
        "ALTER DEFAULT PRIVILEGES FOR ROLE producer_owner REVOKE SELECT ON TABLES FROM producer"
    )
    sql(database_host(), drift, "producer")
    assert deploy(limit="postgresql")[0] == 1
    assert sql(database_host(), "SELECT has_table_privilege('producer', 'jobs_job', 'UPDATE')", "producer") == "t"
    assert sql(database_host(), "SELECT has_schema_privilege('producer', 'public', 'CREATE')", "producer") == "f"
    assert deploy(limit="postgresql")[0] == 0


def test_who_monitors_only_looks():
    code = (
        "import subprocess, sys; url = sys.stdin.readline().strip()\n"
        "for query in sys.stdin.read().splitlines():\n"
        "    run = subprocess.run(['psql', '-tAc', query, url], capture_output=True, text=True)\n"
        "    print((run.stdout or run.stderr).strip().replace('\\n', ' '))\n"
    )
    password = contract("monitor_password | urlencode | replace('/', '%2F')")
    place = f"postgresql://monitor:{password}@127.0.0.1:{contract('database_port')}/"
    queries = ["SELECT count(*) > 0 FROM pg_stat_activity WHERE query IS NOT NULL", "CREATE TABLE x (y int)"]

    def ask(database):
        asked = "\n".join([place + database, *queries])
        return (
            node(database_host()).check_output(f"python3 -c {quote(code)} <<'QUINTET'\n{asked}\nQUINTET").splitlines()
        )

    assert ask("postgres")[0] == "t"
    assert "permission denied" in ask("postgres")[1]
    assert all("no pg_hba.conf entry" in line for line in ask("producer"))


def test_passwords_are_scram_only():
    """Members of a cluster show certificates."""
    roles = "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_authid WHERE rolcanlogin AND rolpassword"
    host, declared = database_host(), sorted(role["name"] for role in contract("database_roles"))
    assert sql(host, f"{roles} LIKE 'SCRAM-SHA-256$%'").split() == declared
    assert sql(host, f"{roles} IS NULL") == ("postgres replicator rewinder" if PATRONI else "postgres")
    methods = "SELECT string_agg(DISTINCT auth_method, ' ') FROM pg_hba_file_rules WHERE type"
    assert sql(host, f"{methods} = 'hostssl'") == ("cert scram-sha-256" if PATRONI else "scram-sha-256")
    assert sql(host, f"{methods} NOT IN ('local', 'hostssl')") == ""


@pytest.mark.parametrize("host", TOPOLOGY.hosts("postgresql"))
def test_settings_are_derived_from_the_host(host):
    assert sql(host, "SHOW data_checksums") == "on"
    assert sql(host, "SHOW server_version").split(".")[0] == str(contract("database_version"))
    quarter = contract("tier_memory_mb", host) // 4
    assert int(sql(host, "SELECT setting::int * 8 / 1024 FROM pg_settings WHERE name = 'shared_buffers'")) == quarter
    assert sql(host, "SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"
