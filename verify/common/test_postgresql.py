"""Whom PostgreSQL admits, and what it runs with."""

import psycopg
import pytest

from verify import TOPOLOGY, contract, manage, node, python_of

SERVER = TOPOLOGY.hosts("postgresql")[0]
WEB, WORKER = TOPOLOGY.hosts("web")[0], TOPOLOGY.hosts("worker")[0]
CONNECT = """
import psycopg
try:
    with psycopg.connect(given["url"], connect_timeout=5) as connection:
        print(connection.execute("SELECT current_user || '@' || current_database()").fetchone()[0])
except psycopg.OperationalError as exc:
    print(exc)
"""


def sql(query):
    return node(SERVER).check_output(f'su postgres -c "psql -p {contract("database_port")} -tAc \\"{query}\\""')


def url(project):
    return contract("database_url", project={"name": project})


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
    wrong = contract("database_url", project={"name": "service"}, database_passwords={"service": "wrong"})
    assert "password authentication failed" in connect(WORKER, "service", wrong)
    superuser = f"postgresql://postgres@{contract('service_names.database')}:{contract('database_port')}/postgres"
    assert "no pg_hba.conf entry" in connect(WORKER, "service", superuser)


def test_a_stranger_is_refused():
    # This machine is no host of the topology.
    stranger = url("producer").replace(contract("service_names.database"), contract("host_address", SERVER))
    with pytest.raises(psycopg.OperationalError, match=r"timeout expired|Connection refused"):
        psycopg.connect(stranger, connect_timeout=5)


def test_passwords_are_scram_only():
    roles = "SELECT count(*) FROM pg_authid WHERE rolcanlogin AND rolname <> 'postgres'"
    assert int(sql(roles)) == len(contract("django_projects"))
    assert sql(roles + " AND rolpassword LIKE 'SCRAM-SHA-256%'") == sql(roles)
    assert sql("SELECT DISTINCT auth_method FROM pg_hba_file_rules WHERE type <> 'local'") == "scram-sha-256"
    assert sql("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'postgres'") == "t"


def test_settings_are_derived_from_the_host():
    assert sql("SHOW data_checksums") == "on"
    assert sql("SHOW server_version").split(".")[0] == str(contract("database_version"))
    quarter = contract("tier_memory_mb", SERVER) // 4
    assert int(sql("SELECT setting::int * 8 / 1024 FROM pg_settings WHERE name = 'shared_buffers'")) == quarter
