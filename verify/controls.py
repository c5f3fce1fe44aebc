"""Shows that the tests can fail: takes away one protection at a time, and runs the test that should miss it.

By hand, on a quintet that is deployed and may be spoilt: make controls. Takes about ten minutes; exits with 1 if a test
did not notice. What is changed on a host is put back.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from shlex import quote

from verify import FIRST, TOPOLOGY, contract, node

DATABASE, CACHE, BROKER, WORKER = (TOPOLOGY.hosts(group)[0] for group in ("postgresql", "redis", "rabbitmq", "worker"))
REPLACE = """
import json, pathlib, sys
given = json.load(sys.stdin)
path = pathlib.Path(given["path"])
text = path.read_text()
if given["old"] not in text:
    sys.exit(f"{path} has changed: {given['old']!r} is not in it")
path.write_text(text.replace(given["old"], given["new"]))
"""


@dataclass
class Control:
    """A protection, the commands that take it from a host and give it back, and the test that must not pass between."""

    protection: str
    host: str
    spoil: str
    mend: str
    test: str

    def missed(self):
        """Whether the test fails without the protection."""
        node(self.host).check_output(self.spoil)
        try:
            command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", f"verify/{self.test}"]
            result = subprocess.run(command, capture_output=True, text=True)
        finally:
            node(self.host).check_output(self.mend)
        why = [line for line in result.stdout.splitlines() if line.startswith("E  ")]
        print(f"without {self.protection}: {self.test} {'fails' if result.returncode == 1 else 'DOES NOT FAIL'}")
        print(*why[:2], sep="\n", flush=True)
        return result.returncode == 1


def changed(path, old, new, unit, verb="restart"):
    """The commands that change a file and restart its unit, and that put both back."""
    asked, restart = json.dumps({"path": path, "old": old, "new": new}), f"systemctl {verb} {unit}"
    spoil = f"cp -p {path} {path}.whole && python3 -c {quote(REPLACE)} <<'QUINTET' && {restart}\n{asked}\nQUINTET"
    return spoil, f"mv {path}.whole {path} && {restart}"


def released(project, file, old, new, unit):
    """The same for the code of a running release."""
    return changed(f"{contract('projects_directory')}/{project}/current/source/{file}", old, new, unit)


def without(path, then):
    """The commands that take a file away, and that bring it back."""
    return f"mv {path} /root/quintet-control && {then}", f"mv /root/quintet-control {path} && {then}"


def permitted(project, **permissions):
    """The commands that give a project's user at the broker some permissions, and the declared ones again."""
    user = next(user for user in contract("broker_users", BROKER) if user["name"] == project)
    ((vhost, own),) = user["permissions"].items()

    def command(given):
        words = [vhost, project, *(given[what] for what in ("configure", "write", "read"))]
        return f"rabbitmqctl set_permissions -p {' '.join(quote(word) for word in words)}"

    return command(own | permissions), command(own)


REDIS, RABBITMQ, POSTGRESQL = "/etc/redis", "/etc/rabbitmq/rabbitmq.conf", "/etc/postgresql/17/main"
CONTROLS = [
    # -- What is accepted is done, once --
    Control(
        "the outbox", FIRST,
        *released(
            "producer", "jobs/services.py",
            "    Outbox.objects.bulk_create(\n",
            "    from .broker import Sender\n"
            "    (lambda messages: Sender().send(list(messages), lambda message: None))(\n",
            "gunicorn-producer",
        ),
        "faults/test_faults.py::test_rabbitmq_restarts",
    ),
    Control(
        "confirms", FIRST,
        *released(
            "producer", "jobs/broker.py",
            "        deadline = time.monotonic() + CONFIRM_SECONDS\n        while True:\n",
            "        for message in self._pending.values():\n            confirmed(message)\n"
            "        self._pending.clear()\n        self._connection.default_channel.events['basic_ack'].clear()\n"
            "        deadline = time.monotonic() + CONFIRM_SECONDS\n        while True:\n",
            "relay-producer",
        ),
        "faults/test_faults.py::test_web_and_rabbitmq_are_cut_off_from_each_other",
    ),
    Control(
        "late acks", WORKER,
        *released(
            "service", "service/settings.py",
            "CELERY_TASK_ACKS_LATE = True\n", "CELERY_TASK_ACKS_LATE = False\n",
            "celery-service",
        ),
        "faults/test_faults.py::test_a_child_of_the_worker_is_killed_in_the_middle_of_a_task",
    ),
    Control(
        "the record of executions", WORKER,
        *released("service", "joining/once.py", "            if ours:\n", "            if True:\n", "celery-service"),
        "faults/test_faults.py::test_rabbitmq_hangs",
    ),
    # -- Every link is encrypted, and both ends are known --
    *(
        Control(
            protection, FIRST,
            *changed("/etc/haproxy/haproxy.cfg", "ssl verify required", "ssl verify none", "haproxy"),
            f"common/test_encryption.py::test_an_impostor_hears_nothing[{service}]",
        )
        for protection, service in (
            ("the check of a service's certificate", "redis"), ("the check of the broker's certificate", "rabbitmq"),
        )
    ),
    Control(
        "the check of a service's name", FIRST,
        *changed("/etc/haproxy/haproxy.cfg", f" verifyhost {contract('service_names.redis')}", "", "haproxy"),
        "common/test_encryption.py::test_an_impostor_hears_nothing[redis]",
    ),
    Control(
        "certificates of clients at Redis", CACHE,
        *changed(f"{REDIS}/redis-results.conf", "tls-auth-clients yes", "tls-auth-clients no", "redis-server@results"),
        "common/test_encryption.py::test_who_has_no_certificate_of_ours_is_refused",
    ),
    Control(
        "certificates of clients at RabbitMQ", BROKER,
        *changed(RABBITMQ, "fail_if_no_peer_cert = true", "fail_if_no_peer_cert = false", "rabbitmq-server"),
        "common/test_encryption.py::test_who_has_no_certificate_of_ours_is_refused",
    ),
    Control(
        "the newest version of TLS at Redis", CACHE,
        *changed(f"{REDIS}/redis-cache.conf", "TLSv1.3", '"TLSv1.2 TLSv1.3"', "redis-server@cache"),
        "common/test_encryption.py::test_an_older_version_is_refused",
    ),
    Control(
        "the newest version of TLS at RabbitMQ", BROKER,
        *changed(RABBITMQ, "= tlsv1.3", "= tlsv1.3\nssl_options.versions.2 = tlsv1.2", "rabbitmq-server"),
        "common/test_encryption.py::test_an_older_version_is_refused",
    ),
    Control(
        "the newest version of TLS at PostgreSQL", DATABASE,
        *changed(f"{POSTGRESQL}/conf.d/quintet.conf", "'TLSv1.3'", "'TLSv1.2'", "postgresql@17-main"),
        "common/test_encryption.py::test_an_older_version_is_refused",
    ),
    Control(
        "encryption at Redis", CACHE,
        *changed(
            f"{REDIS}/redis-results.conf", "port 0\ntls-port 6379", "tls-port 0\nport 6379", "redis-server@results"
        ),
        "common/test_encryption.py::test_nothing_is_said_in_the_clear",
    ),
    Control(
        "encryption at PostgreSQL", DATABASE,
        *changed(f"{POSTGRESQL}/quintet_hba.conf", "hostssl", "host", "postgresql@17-main"),
        "common/test_postgresql.py::test_nobody_is_let_in_without_encryption",
    ),
    # -- Each has its own, and nothing else --
    Control(
        "the hosts of a database", DATABASE,
        *changed(
            f"{POSTGRESQL}/quintet_hba.conf", 'hostssl "service" "service" ',
            'hostssl "service" "service" all scram-sha-256\nhostssl "service" "service" ', "postgresql@17-main",
        ),
        "common/test_postgresql.py::test_a_database_admits_only_the_hosts_of_its_project",
    ),
    Control(
        "an owner of the tables", DATABASE,
        *(
            f"su postgres -c 'psql producer -c \"{what} producer\"'"
            for what in ("GRANT CREATE ON SCHEMA public TO", "REVOKE CREATE ON SCHEMA public FROM")
        ),
        "common/test_postgresql.py::test_a_service_works_in_tables_that_are_not_its_own",
    ),
    Control(
        "the databases of a project at Redis", CACHE,
        *changed(f"{REDIS}/users.acl", " -select +select|0 +select|1", "", "redis-server@results"),
        "common/test_redis.py::test_what_is_not_its_own_business_is_refused[SELECT]",
    ),
    Control(
        "the commands of a project at Redis", CACHE,
        *changed(f"{REDIS}/users.acl", " -@dangerous", "", "redis-server@results"),
        "common/test_redis.py::test_what_is_not_its_own_business_is_refused[KEYS]",
    ),
    Control(
        "the queues that a project reads", BROKER, *permitted("producer", read=".*"),
        "common/test_rabbitmq.py::test_a_project_takes_from_its_own_queues_only[producer-results-service]",
    ),
    Control(
        "the queues that a project makes", BROKER, *permitted("producer", configure=".*"),
        "common/test_rabbitmq.py::test_a_project_takes_from_its_own_queues_only[producer-results-service]",
    ),
    # -- The front door --
    *(
        Control(
            protection, FIRST, *changed("/etc/nginx/conf.d/quintet.conf", old, new, "nginx", "reload"),
            f"common/test_edge.py::{test}",
        )
        for protection, old, new, test in (
            (
                "the end of a path", "location /static/ {", "location /static {",
                "test_nothing_but_the_application_is_there[/static../source/manage.py]",
            ),
            ("a limit", "limit_req zone=producer_1", "#", "test_who_guesses_is_slowed_down"),
            (
                "the size of a request", "client_max_body_size 1m", "client_max_body_size 9m",
                "test_what_is_too_large_is_refused",
            ),
            (
                "the patience for a head", "client_header_timeout 10s", "client_header_timeout 60s",
                "test_who_is_slow_is_not_waited_for_and_holds_up_nobody",
            ),
            (
                "the patience for a body", "client_body_timeout 10s", "client_body_timeout 60s",
                "test_who_is_slow_is_not_waited_for_and_holds_up_nobody",
            ),
            ("silence on versions", "server_tokens off", "server_tokens on", "test_an_answer_names_no_version"),
        )
    ),
    # -- The hosts --
    Control(
        "the firewall", DATABASE,
        "nft add rule inet quintet input accept", "systemctl restart quintet-firewall",
        "common/test_hosts.py::test_the_firewall_drops_what_no_rule_names",
    ),
    Control(
        "who may reach a port", DATABASE,
        "nft add rule inet quintet input tcp dport 5432 accept", "systemctl restart quintet-firewall",
        "common/test_hosts.py::test_a_host_reaches_no_port_but_those_that_are_for_it",
    ),
    Control(
        "who may reach a port from outside", DATABASE,
        "nft add rule inet quintet input tcp dport 5432 accept", "systemctl restart quintet-firewall",
        "common/test_hosts.py::test_from_outside_no_port_is_open_but_those_for_everybody",
    ),
    Control(
        "the firewall for what is not TCP", DATABASE,
        *changed(
            "/etc/quintet/firewall.nft", "iif lo accept", "iif lo accept\n        meta l4proto udp accept",
            "quintet-firewall", "reload",
        ),
        f"common/test_hosts.py::test_the_firewall_drops_it_by_ipv6_and_by_udp_as_well[{DATABASE}]",
    ),
    Control(
        "the limit of the journal", CACHE,
        *without("/etc/systemd/journald.conf.d/quintet.conf", "systemctl restart systemd-journald"),
        f"common/test_hosts.py::test_the_journal_has_a_limit[{CACHE}]",
    ),
    *(
        Control(
            f"the sandbox of {unit}", host,
            *without(f"/etc/systemd/system/{unit}.service.d/{name}.conf", "systemctl daemon-reload"),
            "common/test_hosts.py::test_services_have_few_rights",
        )
        for unit, name, host in (
            ("postgresql@17-main", "sandbox", DATABASE), ("rabbitmq-server", "sandbox", BROKER),
            ("nginx", "sandbox", FIRST), ("haproxy", "quintet", FIRST),
        )
    ),
    *(
        Control(
            f"the limits of {unit}", host,
            f"systemctl set-property --runtime {unit} {limit}=infinity",
            f"rm -r /run/systemd/system.control/{unit}.d && systemctl daemon-reload && systemctl restart {unit}",
            "common/test_hosts.py::test_no_service_takes_all_memory_or_all_processes",
        )
        for unit, limit, host in (
            ("postgresql@17-main.service", "MemoryMax", DATABASE), ("redis-server@cache.service", "TasksMax", CACHE),
        )
    ),
    Control(
        "packages that only people update", CACHE,
        *without("/etc/apt/apt.conf.d/52quintet", "true"),
        "common/test_hosts.py::test_security_updates_leave_alone_what_has_data",
    ),
    Control(
        "the rights of a file with secrets", WORKER,
        f"chmod 644 {contract('projects_directory')}/service/environment",
        f"chmod 600 {contract('projects_directory')}/service/environment",
        "common/test_hosts.py::test_secrets_are_in_no_file_that_everybody_reads",
    ),
    Control(
        "the rights of a private key", CACHE, "chmod 644 /etc/redis/identity.pem", "chmod 640 /etc/redis/identity.pem",
        f"common/test_hosts.py::test_secrets_are_in_no_file_that_everybody_reads[{CACHE}]",
    ),
    Control(
        "an environment of one's own", WORKER,
        f"chmod 644 {contract('projects_directory')}/service/environment",
        f"chmod 600 {contract('projects_directory')}/service/environment",
        f"common/test_hosts.py::test_nobody_reads_the_environment_of_a_service[{WORKER}]",
    ),
]  # fmt: skip


if __name__ == "__main__":
    chosen = [control for control in CONTROLS if not sys.argv[1:] or control.protection in sys.argv[1:]]
    sys.exit(not all([control.missed() for control in chosen]))
