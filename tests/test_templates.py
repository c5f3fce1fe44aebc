"""Every template of every role, rendered by Ansible's templar as in a deploy, and read as its reader reads it."""

import configparser
import hashlib
import json
import re
import shlex
import socket
import subprocess
import sys

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.samples import SECRETS, UGLY, argument_spec
from tests.topology import ROOT

MANAGED = "Ansible managed"
NAMES = ("producer", "service")
# Each template: its role's group, and the items for which it is rendered (none: it is rendered once).
TEMPLATES = {
    "celery_worker/beat.service.j2": ("worker", "celery_worker_beats"),
    "celery_worker/celery.service.j2": ("worker", "celery_worker_workers"),
    "django_project/environment.j2": ("all", None),
    "django_project/quintet-manage.j2": ("all", None),
    "hardening/firewall.nft.j2": ("web", None),
    "hardening/quintet-firewall.service.j2": ("web", None),
    "hardening/sshd.conf.j2": ("web", None),
    "hardening/updates.conf.j2": ("web", None),
    "haproxy/haproxy.cfg.j2": ("web", None),
    "haproxy/quintet-haproxy.j2": ("web", None),
    "haproxy/quintet.conf.j2": ("web", None),
    "haproxy/quintet.lua.j2": ("edge", None),
    "keepalived/check.j2": ("edge", None),
    "keepalived/keepalived.conf.j2": ("edge", None),
    "keepalived/quintet.conf.j2": ("edge", None),
    "keepalived/service.conf.j2": ("edge", None),
    "pgbackrest/pgbackrest.conf.j2": ("postgresql", None),
    "pgbackrest/sandbox.conf.j2": ("postgresql", None),
    "pgbackrest/quintet-backup.timer.j2": ("postgresql", "__pgbackrest_turns"),
    "pgbackrest/quintet-backup@.service.j2": ("postgresql", None),
    "postgresql/checksums.conf.j2": ("postgresql", None),
    "postgresql/sandbox.conf.j2": ("postgresql", None),
    "rabbitmq/sandbox.conf.j2": ("rabbitmq", "[__rabbitmq_sandbox, __rabbitmq_epmd_sandbox]"),
    "web/acme-got.j2": ("web", None),
    "web/acme.service.j2": ("web", None),
    "web/certbot.conf.j2": ("web", None),
    "web/sandbox.conf.j2": ("web", None),
    "postgresql/quintet.conf.j2": ("postgresql", None),
    "postgresql/quintet_hba.conf.j2": ("postgresql", None),
    "rabbitmq/distribution.config.j2": ("rabbitmq", None),
    "rabbitmq/enabled_plugins.j2": ("rabbitmq", None),
    "rabbitmq/epmd.socket.j2": ("rabbitmq", None),
    "rabbitmq/rabbitmq-env.conf.j2": ("rabbitmq", None),
    "rabbitmq/rabbitmq.conf.j2": ("rabbitmq", None),
    "redis/daemon.conf.j2": ("redis", "__redis_daemons + [__redis_sentinel_daemon]"),
    "redis/group.conf.j2": ("redis", None),
    "redis/limits.conf.j2": ("redis", "redis_instances"),
    "redis/redis.conf.j2": ("redis", "redis_instances"),
    "redis/sentinel.acl.j2": ("redis", None),
    "redis/sentinel.conf.j2": ("redis", None),
    "redis/users.acl.j2": ("redis", None),
    "web/daemon.service.j2": ("web", "__web_daemons"),
    "web/gunicorn.service.j2": ("web", "web_sites"),
    "web/gunicorn.socket.j2": ("web", "web_sites"),
    "web/nginx.conf.j2": ("web", None),
}
# The same for what is in the topology `ha` only; see test_ha_*.py.
HA_TEMPLATES = {
    "etcd/quintet.yml.j2": ("etcd", None),
    "etcd/quintet-etcd-yield.service.j2": ("etcd", None),
    "etcd/quintet-etcd-yield.timer.j2": ("etcd", None),
    "etcd/sandbox.conf.j2": ("etcd", None),
    "patroni/config.yml.j2": ("postgresql", None),
    "patroni/limits.conf.j2": ("postgresql", None),
    "patroni/pg_hba.conf.j2": ("postgresql", None),
    "patroni/pg_ident.conf.j2": ("postgresql", None),
    "patroni/sandbox.conf.j2": ("postgresql", None),
}


def loaded(path):
    """The variables of a role's file; a role need not have it."""
    return (DataLoader().load_from_file(str(path), trusted_as_template=True) or {}) if path.exists() else {}


def project(topology, name="producer", **more):
    """A project, as the contract completes its entry with more in it."""
    host = topology.hosts()[0]
    entries = [entry | (more if entry["name"] == name else {}) for entry in topology.render(host, "django_projects")]
    return next(one for one in topology.render(host, "projects", django_projects=entries) if one["name"] == name)


def templar(topology, host, role, **more):
    """What a role's template sees on a host: defaults, under the inventory, under the role's own, under the turn's."""
    known = topology.templar(host).available_variables
    variables = (
        loaded(ROOT / f"roles/{role}/defaults/main.yml")
        | known
        | loaded(ROOT / f"roles/{role}/vars/main.yml")
        | {"ansible_managed": MANAGED, "ansible_search_path": [str(ROOT / "roles" / role)], **more}
    )
    return Templar(loader=DataLoader(), variables=variables)


def render(topology, template, host=None, **more):
    """The text of a template in each turn of its loop, on the first host of its group or on the one named."""
    role, _, name = template.partition("/")
    group, loop = (TEMPLATES | HA_TEMPLATES)[template]
    host = host or topology.hosts(group)[0]
    more = {"project": project(topology), **more}
    turns = [{}]
    if loop:
        expression = trust_as_template("{{ " + loop + " }}")
        turns = [{"item": item} for item in templar(topology, host, role, **more).template(expression)]
        assert turns, f"{template} is never rendered"
    source = trust_as_template((ROOT / f"roles/{role}/templates/{name}").read_text())
    return [
        templar(topology, host, role, **more, **turn).template(
            source, escape_backslashes=False, overrides={"trim_blocks": True, "lstrip_blocks": False}
        )
        for turn in turns
    ]


def lines(text):
    """The lines that are not empty and no comments."""
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pairs(text, separator):
    """Lines of a name and a value, as a dict; no name may come twice."""
    found = [tuple(part.strip() for part in line.split(separator, 1)) for line in lines(text)]
    assert len(dict(found)) == len(found), "a name comes twice"
    return dict(found)


def unit(text):
    """A systemd unit: sections of names and values."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters="=", comment_prefixes="#")
    parser.optionxform = str
    parser.read_string(text.replace("\\\n", " "))
    return parser


def test_every_template_is_here():
    found = {f"{path.parent.parent.name}/{path.name}" for path in ROOT.glob("roles/*/templates/**/*") if path.is_file()}
    assert found == TEMPLATES.keys() | HA_TEMPLATES.keys()


# What none of the two projects has.
BEATS = [{"project": "x", "directory": "/x", "celery_app": "a.b", "scheduler": "s:S", "here": True}]


@pytest.mark.parametrize("template", TEMPLATES)
def test_renders_on_every_host(each, edged, template):
    group = TEMPLATES[template][0]
    topology = each if group in each.groups else edged
    for host in topology.hosts(group):
        for text in render(topology, template, host, celery_worker_beats=BEATS):
            assert text.strip()
            assert text.endswith("\n")
            assert "{{" not in text
            assert "None" not in text.split()


@pytest.mark.parametrize("template", HA_TEMPLATES)
def test_renders_on_every_host_of_several(ha, template):
    for host in ha.hosts(HA_TEMPLATES[template][0]):
        for text in render(ha, template, host):
            assert text.strip()
            assert text.endswith("\n")
            assert "{{" not in text
            assert "None" not in text.split()


@pytest.mark.parametrize("template", ["rabbitmq/rabbitmq.conf.j2", "django_project/environment.j2"])
def test_an_undefined_name_is_an_error(onebox, template):
    broken = trust_as_template("{{ no_such_name }}")
    with pytest.raises(AnsibleError, match="no_such_name"):
        render(onebox, template, rabbitmq_port=broken, django_project_settings_module=broken)


# -- What is written where ------------------------------------------------------------------------------------------

# Each file of a role: its template (or the target of a link, or nothing: it is absent), the turn in which that is
# rendered, and a group and a mode that are not the module's.
PG, UNITS = "/etc/postgresql/17/main", "/etc/systemd/system"
FILES = {
    "hardening": {
        "/etc/quintet/firewall.nft": ("firewall.nft.j2", 0, None, None),
        f"{UNITS}/quintet-firewall.service": ("quintet-firewall.service.j2", 0, None, None),
        "/etc/apt/apt.conf.d/52quintet": ("updates.conf.j2", 0, None, None),
        "/etc/systemd/journald.conf.d/quintet.conf": ("[Journal]\nSystemMaxUse=1024M\n", 0, None, None),
        "/etc/ssh/sshd_config.d/quintet.conf": (None, 0, None, None),
    },
    "haproxy": {
        "/etc/haproxy/identity.pem": ("tls_identity", 0, "haproxy", "0640"),
        "/etc/haproxy/authorities.pem": ("tls_authorities", 0, None, None),
        "/etc/haproxy/haproxy.cfg": ("haproxy.cfg.j2", 0, None, None),
        "/usr/local/sbin/quintet-haproxy": ("quintet-haproxy.j2", 0, None, "0755"),
        f"{UNITS}/haproxy.service.d/quintet.conf": ("quintet.conf.j2", 0, None, None),
    },
    "keepalived": {
        "/etc/keepalived/keepalived.conf": ("keepalived.conf.j2", 0, None, None),
        "/etc/keepalived/check": ("check.j2", 0, None, "0755"),
        f"{UNITS}/keepalived.service.d/quintet.conf": ("quintet.conf.j2", 0, None, None),
        f"{UNITS}/haproxy.service.d/keepalived.conf": ("service.conf.j2", 0, None, None),
    },
    "postgresql": {
        f"{PG}/identity.pem": ("tls_identity", 0, "postgres", "0640"),
        f"{PG}/conf.d/quintet.conf": ("quintet.conf.j2", 0, "postgres", "0640"),
        f"{PG}/quintet_hba.conf": ("quintet_hba.conf.j2", 0, "postgres", "0640"),
        f"{UNITS}/postgresql@17-main.service.d/sandbox.conf": ("sandbox.conf.j2", 0, None, None),
        f"{UNITS}/postgresql@17-main.service.d/checksums.conf": ("checksums.conf.j2", 0, None, None),
    },
    "pgbackrest": {
        "/etc/pgbackrest/pgbackrest.conf": ("pgbackrest.conf.j2", 0, "postgres", "0640"),
        f"{UNITS}/quintet-backup@.service": ("quintet-backup@.service.j2", 0, None, None),
        f"{UNITS}/quintet-backup-full.timer": ("quintet-backup.timer.j2", 0, None, None),
        f"{UNITS}/quintet-backup-diff.timer": ("quintet-backup.timer.j2", 1, None, None),
    },
    "redis": {
        "/etc/redis/identity.pem": ("tls_identity", 0, "redis", "0640"),
        "/etc/redis/authorities.pem": ("tls_authorities", 0, None, None),
        "/etc/redis/users.acl": ("users.acl.j2", 0, "redis", "0640"),
        "/etc/redis/redis-results.conf": ("redis.conf.j2", 0, "redis", "0640"),
        "/etc/redis/redis-cache.conf": ("redis.conf.j2", 1, "redis", "0640"),
        f"{UNITS}/redis-server@results.service.d/limits.conf": ("limits.conf.j2", 0, None, None),
        f"{UNITS}/redis-server@cache.service.d/limits.conf": ("limits.conf.j2", 1, None, None),
    },
    "rabbitmq": {
        "/etc/rabbitmq/rabbitmq.conf": ("rabbitmq.conf.j2", 0, "rabbitmq", "0640"),
        "/etc/rabbitmq/rabbitmq-env.conf": ("rabbitmq-env.conf.j2", 0, "rabbitmq", None),
        "/etc/rabbitmq/enabled_plugins": ("enabled_plugins.j2", 0, "rabbitmq", None),
        "/etc/rabbitmq/identity.pem": ("tls_identity", 0, "rabbitmq", "0640"),
        "/etc/rabbitmq/authorities.pem": ("tls_authorities", 0, None, None),
        "/etc/rabbitmq/definitions.json": (None, 0, "rabbitmq", None),
        f"{UNITS}/rabbitmq-server.service.d/sandbox.conf": ("sandbox.conf.j2", 0, None, None),
        "/var/lib/rabbitmq/.erlang.cookie": ("broker_cookie", 0, "rabbitmq", "0400"),
        "/etc/rabbitmq/distribution.config": ("distribution.config.j2", 0, None, None),
        f"{UNITS}/epmd.service.d/sandbox.conf": ("sandbox.conf.j2", 1, None, None),
        f"{UNITS}/epmd.socket": ("epmd.socket.j2", 0, None, None),
    },
    "web": {
        "/etc/nginx/conf.d/quintet.conf": ("nginx.conf.j2", 0, None, None),
        f"{UNITS}/nginx.service.d/sandbox.conf": ("sandbox.conf.j2", 0, None, None),
        "/etc/nginx/sites-enabled/default": (None, 0, None, None),
        f"{UNITS}/gunicorn-producer.socket": ("gunicorn.socket.j2", 0, None, None),
        f"{UNITS}/gunicorn-producer.service": ("gunicorn.service.j2", 0, None, None),
        f"{UNITS}/relay-producer.service": ("daemon.service.j2", 0, None, None),
        "/opt/quintet/producer/environment": ("/opt/quintet/producer/environment.next", 0, None, None),
        "/opt/quintet/producer/current": ("releases/aaaaaaaaaaaa", 0, None, None),
    },
    "celery_worker": {
        f"{UNITS}/celery-producer.service": ("celery.service.j2", 0, None, None),
        "/opt/quintet/producer/environment": ("/opt/quintet/producer/environment.next", 0, None, None),
        "/opt/quintet/producer/current": ("releases/aaaaaaaaaaaa", 0, None, None),
        f"{UNITS}/celery-service.service": ("celery.service.j2", 1, None, None),
        "/opt/quintet/service/environment": ("/opt/quintet/service/environment.next", 0, None, None),
        "/opt/quintet/service/current": ("releases/bbbbbbbbbbbb", 0, None, None),
    },
}
GROUPS = {role: role for role in FILES} | {"celery_worker": "worker", "haproxy": "web", "hardening": "web"}
GROUPS |= {"keepalived": "edge", "pgbackrest": "postgresql"}
GROUPS |= {"etcd": "etcd", "patroni": "postgresql"}
SECRET_FILES = {"/etc/redis/users.acl", "/etc/pgbackrest/pgbackrest.conf"}


def evaluated(topology, role, expression, host=None, **more):
    """The value of an expression as the role's tasks see it, on the first host of its group or on the one named."""
    host = host or topology.hosts(GROUPS.get(role, "all"))[0]
    return templar(topology, host, role, **more).template(trust_as_template("{{ " + expression + " }}"))


@pytest.mark.parametrize("role", FILES)
def test_files(each, edged, role):
    each = each if GROUPS[role] in each.groups else edged
    expected = []
    for path, (source, turn, group, mode) in FILES[role].items():
        file = {"path": path, "group": group, "mode": mode}
        if path == "/etc/quintet/firewall.nft":
            file["accept"] = ["sh", "-c", evaluated(each, role, "__hardening_accept"), "sh"]
        if path in ("/etc/rabbitmq/enabled_plugins", "/var/lib/rabbitmq/.erlang.cookie"):
            file["owner"] = "rabbitmq"
        if path.endswith(".json"):
            file["content"] = "{}"
        elif source is None:
            file["absent"] = True
        elif source.startswith("tls_"):
            file["secret" if source == "tls_identity" else "content"] = evaluated(each, role, source) + "\n"
        elif source.startswith("["):
            file["content"] = source
        elif source == "broker_cookie":
            file["secret"] = SECRETS[source]
        elif source.endswith(".j2"):
            file["secret" if path in SECRET_FILES else "content"] = render(each, f"{role}/{source}")[turn]
        else:
            file["copy" if source.endswith(".next") else "link"] = source
        expected.append({key: value for key, value in file.items() if value is not None})
    found = evaluated(each, role, f"__{role}_files")
    assert sorted(found, key=lambda one: one["path"]) == sorted(expected, key=lambda one: one["path"])


def test_ssh_is_told_what_a_site_wants(each):
    found = evaluated(each, "hardening", "__hardening_sshd", hardening_ssh=True)
    lines = [line for line in found["content"].splitlines() if line and not line.startswith("#")]
    names = ("PasswordAuthentication", "KbdInteractiveAuthentication", "PermitRootLogin", "X11Forwarding")
    assert lines == [f"{name} no" for name in names]
    assert found["accept"] == ["/usr/sbin/sshd", "-t", "-f"]


def project_files(topology, **more):
    """The files of the role of projects, for one with more in its entry."""
    return evaluated(topology, "django_project", "__django_project_files", project=project(topology, **more))


def test_what_a_host_says_is_no_command_on_the_controller(onebox):
    known = {"role_path": "/r", "ansible_playbook_python": "/v/python", "django_project_archive": "/a.tar"}
    said = {"__django_project_found": {"stdout_lines": ["3.13 x86_64;echo$(echo${IFS}done)"]}}
    template = trust_as_template("{{ __django_project_bundle }}")
    # A list of words, which no shell reads.
    *words, entry = templar(onebox, "box1", "django_project", project=project(onebox), **known, **said).template(
        template
    )
    assert words == ["/v/python", "/r/files/bundle.py", "/v/uv", "/a.tar", "3.13", "x86_64;echo$(echo${IFS}done)"]
    assert json.loads(entry)["source"] == {"path": "app/producer"}


def test_files_of_a_project(each):
    commands, state = {"never": ["flush", "reset_db"]}, {"files": {"jwt.key": UGLY}}
    more = {"commands": commands, "state": state}
    owner = {"path": "/opt/quintet/producer/environment.owner"}
    # On the project's first host alone, where its tables are made.
    if len(each.hosts()) == 1:
        [secret] = render(each, "django_project/environment.j2")
        secret = secret.replace("//producer:producer%20", "//producer_owner:producer_owner%20")
        secret = secret.replace("PGSSLMODE=", 'PGOPTIONS="-c lock_timeout=5s"\nPGSSLMODE=')
        owner |= {"secret": secret, "mode": "0600"}
    else:
        owner |= {"absent": True}
    assert project_files(each, **more) == [
        {
            "path": "/opt/quintet/producer/environment.next",
            "secret": render(each, "django_project/environment.j2")[0],
            "mode": "0600",
        },
        owner,
        {"path": "/opt/quintet/producer/never", "content": "flush\nreset_db\n"},
        {
            "path": "/usr/local/bin/quintet-manage",
            "content": render(each, "django_project/quintet-manage.j2")[0],
            "mode": "0755",
        },
        {"path": "/opt/quintet/producer/files/jwt.key", "group": "producer", "mode": "0640", "secret": UGLY},
    ]


@pytest.mark.parametrize("role", [*FILES, "django_project"])
def test_files_are_what_the_module_takes(each, edged, role):
    each = each if GROUPS.get(role, "all") in each.groups else edged
    spec = argument_spec("systemd_units")["files"]["options"]
    found = evaluated(each, role, f"__{role}_files") if role in FILES else project_files(each)
    assert found
    for file in found:
        assert file.keys() <= spec.keys()
        assert len({"content", "secret", "copy", "link", "absent"} & file.keys()) == 1


# What starts anew after which files, and what reads which anew.
UNITS_OF = {
    "redis": [
        {"name": "redis-server.service", "enabled": False},
        *(
            {
                "name": f"redis-server@{name}.service",
                "restart_after": [
                    f"/etc/redis/redis-{name}.conf",
                    f"{UNITS}/redis-server@{name}.service.d/limits.conf",
                    *(f"/etc/redis/{file}" for file in ("users.acl", "identity.pem", "authorities.pem")),
                ],
            }
            for name in ("results", "cache")
        ),
    ],
    "web": [
        {"name": "gunicorn-producer.socket", "restart_after": [f"{UNITS}/gunicorn-producer.socket"]},
        {
            "name": "gunicorn-producer.service",
            "restart_after": [
                f"{UNITS}/gunicorn-producer.service",
                "/opt/quintet/producer/environment",
                "/opt/quintet/producer/current",
            ],
        },
        {
            "name": "relay-producer.service",
            "restart_after": [
                f"{UNITS}/relay-producer.service",
                "/opt/quintet/producer/environment",
                "/opt/quintet/producer/current",
            ],
        },
        {
            "name": "nginx.service",
            "restart_after": [f"{UNITS}/nginx.service.d/sandbox.conf"],
            "reload_after": ["/etc/nginx/conf.d/quintet.conf", "/etc/nginx/sites-enabled", "/etc/nginx/quintet.pem"],
        },
    ],
    "celery_worker": [
        {
            "name": f"celery-{project}.service",
            "restart_after": [
                f"{UNITS}/celery-{project}.service",
                f"/opt/quintet/{project}/environment",
                f"/opt/quintet/{project}/current",
            ],
        }
        for project in ("producer", "service")
    ],
}


@pytest.mark.parametrize("role", UNITS_OF)
def test_units(each, role):
    assert evaluated(each, role, f"__{role}_units") == UNITS_OF[role]


@pytest.mark.parametrize(
    ("role", "name", "broken"),
    [
        ("redis", "__redis_files", {"redis_instances": [{"name": "x"}]}),
        ("web", "__web_files", {"web_sites": [{"project": "x", "directory": "/x", "release": "x"}]}),
        ("web", "__web_units", {"web_sites": [{"project": "x"}]}),
        ("celery_worker", "__celery_worker_files", {"celery_worker_workers": [{"project": "x", "directory": "/x"}]}),
        ("postgresql", "__postgresql_roles", {"postgresql_roles": [{"name": "x"}]}),
    ],
)
def test_what_is_undefined_is_an_error_and_no_file_less(onebox, role, name, broken):
    with pytest.raises(AnsibleError):
        evaluated(onebox, role, name, **broken)


def test_roles_of_postgresql(each):
    assert {role["name"]: role for role in evaluated(each, "postgresql", "__postgresql_roles")} == {
        name: {"name": name, "password": password, "member_of": []}
        for name, password in SECRETS["database_passwords"].items()
    } | {"monitor": {"name": "monitor", "password": SECRETS["monitor_password"], "member_of": ["pg_monitor"]}}


# -- PostgreSQL -------------------------------------------------------------------------------------------------------

PEER = ("local", "all", "postgres", "peer")
MONITOR = ("hostssl", "postgres", "monitor", "127.0.0.1/32", "scram-sha-256")
ADMITTED = {
    "onebox": {
        PEER,
        MONITOR,
        ("hostssl", "producer", "producer", "127.0.0.1/32", "scram-sha-256"),
        ("hostssl", "service", "service", "127.0.0.1/32", "scram-sha-256"),
        ("hostssl", "producer", "producer_owner", "127.0.0.1/32", "scram-sha-256"),
        ("hostssl", "service", "service_owner", "127.0.0.1/32", "scram-sha-256"),
    },
    "quintet": {
        PEER,
        MONITOR,
        ("hostssl", "producer", "producer_owner", "10.213.171.13/32", "scram-sha-256"),
        ("hostssl", "service", "service_owner", "10.213.171.14/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.171.13/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.171.14/32", "scram-sha-256"),
        ("hostssl", "service", "service", "10.213.171.14/32", "scram-sha-256"),
    },
    "wide": {
        PEER,
        MONITOR,
        ("hostssl", "producer", "producer_owner", "10.213.10.11/32", "scram-sha-256"),
        ("hostssl", "service", "service_owner", "10.213.10.13/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.10.11/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.10.12/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.10.13/32", "scram-sha-256"),
        ("hostssl", "producer", "producer", "10.213.10.14/32", "scram-sha-256"),
        ("hostssl", "service", "service", "10.213.10.12/32", "scram-sha-256"),
        ("hostssl", "service", "service", "10.213.10.13/32", "scram-sha-256"),
        ("hostssl", "service", "service", "10.213.10.14/32", "scram-sha-256"),
    },
}


@pytest.mark.parametrize("name", ADMITTED)
def test_postgresql_admits_roles_from_their_hosts_and_nobody_else(request, name):
    [text] = render(request.getfixturevalue(name), "postgresql/quintet_hba.conf.j2")
    rules = [tuple(shlex.split(line)) for line in lines(text)]
    assert set(rules) == ADMITTED[name]
    assert len(rules) == len(ADMITTED[name])


def test_postgresql_admits_ipv6(quintet):
    roles = [{"name": "x", "password": "x", "database": "x", "clients": ["fd00::1"]}]
    [text] = render(quintet, "postgresql/quintet_hba.conf.j2", postgresql_roles=roles)
    assert 'hostssl "x" "x" fd00::1/128 scram-sha-256' in lines(text)


def postgresql(topology, **more):
    """The settings of PostgreSQL, unquoted."""
    [text] = render(topology, "postgresql/quintet.conf.j2", **more)
    found = pairs(text, "=")
    assert all(re.fullmatch(r"'([^']|'')*'", value) for value in found.values())
    return {name: value[1:-1].replace("''", "'") for name, value in found.items()}


def test_postgresql_settings(quintet):
    found = postgresql(quintet)
    expected = {
        "listen_addresses": "127.0.0.1,10.213.171.10",
        "port": "5432",
        "password_encryption": "scram-sha-256",
        "hba_file": "/etc/postgresql/17/main/quintet_hba.conf",
        "shared_buffers": "512MB",
        "effective_cache_size": "1536MB",
        "maintenance_work_mem": "128MB",
        "work_mem": "10MB",
    }
    assert {name: found.get(name) for name in expected} == expected


def test_postgresql_takes_more_settings(onebox):
    found = postgresql(onebox, postgresql_settings={"port": 1, "search_path": "it's"})
    assert (found["port"], found["search_path"]) == ("1", "it's")
    assert found["listen_addresses"] == "127.0.0.1"


def test_postgresql_gets_checksums_before_its_first_start_only(quintet):
    [text] = render(quintet, "postgresql/checksums.conf.j2")
    before = shlex.split(unit(text)["Service"]["ExecStartPre"])
    assert before[:2] == ["/bin/sh", "-c"]
    tested, enabled = before[2].split("||")
    data = "/var/lib/postgresql/17/main"
    assert tested.split() == ["test", "-e", f"{data}/postmaster.opts"]
    tool = "/usr/lib/postgresql/17/bin/pg_checksums"
    assert enabled.split() == ["exec", tool, "--enable", "--pgdata", data]


@pytest.mark.parametrize(
    ("config", "expected"),
    [(None, "/x/current/gunicorn.conf.py"), ("conf/gunicorn.py", "conf/gunicorn.py"), ("none", "/dev/null")],
)
def test_the_configuration_of_gunicorn(quintet, config, expected):
    site = {"project": "x", "directory": "/x", "application": "x.wsgi"} | ({"config": config} if config else {})
    found = evaluated(quintet, "web", "__web_gunicorn", web_sites=[site])
    assert found == {"x": f"--config {expected} x.wsgi"}


# -- Between hosts ----------------------------------------------------------------------------------------------------


def test_haproxy_speaks_with_none_but_the_service_itself(quintet):
    [text] = render(quintet, "haproxy/haproxy.cfg.j2", "worker1")
    found = dict(re.findall(r"bind (\S+)\n    server (.*)\n", text))
    tls = "ssl verify required ca-file /etc/haproxy/authorities.pem crt /etc/haproxy/identity.pem"
    rabbitmq, redis = (
        f"sni str({name}) verifyhost {name}" for name in ("rabbitmq.quintet.internal", "redis.quintet.internal")
    )
    assert found == {
        # Its clients encrypt by themselves.
        "127.0.1.10:5432": "postgresql1 10.213.171.10:5432",
        "127.0.1.10:5672": f"rabbitmq1 10.213.171.12:5671 {tls} {rabbitmq}",
        "127.0.1.10:6379": f"redis1 10.213.171.11:6379 {tls} {redis}",
        "127.0.1.10:6380": f"redis1 10.213.171.11:6380 {tls} {redis}",
    }
    assert "ssl-min-ver TLSv1.3" in text


def let_in(topology, host):
    """Who is let in by a host's firewall, as (source or None, port), or (source, "vrrp")."""
    [text] = render(topology, "hardening/firewall.nft.j2", host)
    assert "policy drop" in text
    found = re.findall(r"^ +(?:ip6? saddr (\S+) )?(?:tcp dport|meta l4proto) (\d+) accept$", text, re.MULTILINE)
    return {(source or None, "vrrp" if port == "112" else int(port)) for source, port in found}


def test_the_firewall_lets_in_whom_the_contract_names(quintet, onebox):
    apps = ("10.213.171.13", "10.213.171.14")
    assert let_in(quintet, "postgresql1") == {(None, 22), *((app, 5432) for app in apps)}
    assert let_in(quintet, "redis1") == {(None, 22), *((app, port) for app in apps for port in (6379, 6380))}
    management = ("10.213.171.1", 15672)
    assert let_in(quintet, "rabbitmq1") == {(None, 22), management, *((app, 5671) for app in apps)}
    assert let_in(quintet, "web1") == {(None, 22), (None, 80)}
    assert let_in(quintet, "worker1") == {(None, 22)}
    assert let_in(onebox, "box1") == {(None, 22), (None, 80), ("10.213.88.1", 15672)}


def test_web_hosts_behind_an_edge_are_for_it_alone(edged):
    edges = ("10.213.10.11", "10.213.10.12")
    assert let_in(edged, "edge1") == {(None, 22), (None, 80), (edges[1], "vrrp")}
    assert let_in(edged, "edge2") == {(None, 22), (None, 80), (edges[0], "vrrp")}
    assert let_in(edged, "web1") == {(None, 22), *((edge, 8080) for edge in edges)}


def edge(topology, **more):
    """The sections of HAProxy on an edge, as lists of their lines by their ports."""
    services = topology.render("edge1", "haproxy_services", **more)
    [text] = render(topology, "haproxy/haproxy.cfg.j2", "edge1", haproxy_services=services)
    sections = re.findall(
        r"^listen web\.quintet\.internal:(\d+)\n(.*?)(?:\n\n|\Z)", text + "\n", re.MULTILINE | re.DOTALL
    )
    assert "stats socket /run/haproxy/admin.sock mode 660 level admin" in text
    return {int(port): [line.strip() for line in lines.splitlines()] for port, lines in sections}


CHECK = "inter 1s fastinter 500ms downinter 1s fall 2 rise 1 check check-sni web.quintet.internal check-send-proxy"


def test_an_edge_leads_to_web_hosts_that_are_well(edged):
    found = edge(edged)
    assert list(found) == [80]
    servers = [line for line in found[80] if line.startswith("server")]
    assert servers == [
        f"server web1 10.213.10.13:8080 send-proxy-v2 {CHECK}",
        f"server web2 10.213.10.14:8080 send-proxy-v2 {CHECK}",
        "server web1-anyway 10.213.10.13:8080 send-proxy-v2 backup",
        "server web2-anyway 10.213.10.14:8080 send-proxy-v2 backup",
    ]
    assert found[80][0] == "bind 0.0.0.0:80"
    assert [line for line in found[80] if line.startswith("http-check")] == [
        "http-check connect default",
        "http-check send meth GET uri /healthz/live ver HTTP/1.1 hdr Host localhost",
        "http-check expect status 200",
    ]


def test_an_edge_does_not_end_tls(edged):
    found = edge(edged, application_url="https://app.example")
    assert list(found) == [80, 443]
    servers = [line for line in found[443] if line.startswith("server web1 ")]
    assert servers == [f"server web1 10.213.10.13:8443 send-proxy-v2 {CHECK} check-ssl verify none"]
    assert "http-check expect status 200-499" in found[80]
    assert edged.render("edge1", "haproxy_identity") == "", "it has no certificate"


def test_an_edge_on_a_web_host_has_the_services_of_both(edged):
    names = [service["name"] for service in edged.render("edge1", "haproxy_services", app_hosts=["edge1"])]
    assert names == [f"{name}.quintet.internal" for name in ("postgresql", "rabbitmq", "redis", "redis", "web")]
    assert edged.render("edge1", "haproxy_identity", app_hosts=["edge1"]) == SECRETS["tls_identity"]


def test_an_edge_asks_for_every_site_by_what_it_says_of_its_health(edged):
    sites = [
        {"name": "one", "web": {"prefix": "/shop", "health": {"path": "/up", "statuses": [200, 204]}}},
        {"name": "two", "web": {}},
        {"name": "three", "web": {"health": {"tcp": True}}},
    ]
    sites = [project(edged) | site | {"host_names": ["x"]} for site in sites]
    found = edged.render("edge1", "edge_questions", projects=sites)
    assert [line for line in found if "connect" not in line] == [
        "http-check send meth GET uri /shop/up ver HTTP/1.1 hdr Host x",
        "http-check expect status 200,204",
        "http-check send meth GET uri / ver HTTP/1.1 hdr Host x",
        "http-check expect status 200-499",
    ]


def test_hosts_of_an_edge_agree_on_who_has_its_address(edged):
    first, second = (render(edged, "keepalived/keepalived.conf.j2", host)[0] for host in ("edge1", "edge2"))
    for text, own, peer, priority in (
        (first, "10.213.10.11", "10.213.10.12", 250),
        (second, "10.213.10.12", "10.213.10.11", 249),
    ):
        words = text.split()
        assert words[words.index("unicast_src_ip") + 1] == own
        assert words[words.index("unicast_peer") + 2] == peer
        assert words[words.index("priority") + 1] == str(priority)
        assert words[words.index("virtual_ipaddress") + 2] == "10.213.10.250"
    [alone] = render(edged, "keepalived/keepalived.conf.j2", keepalived_peers=[])
    assert "unicast" not in alone


def test_the_firewall_lets_in_what_a_site_names(quintet):
    extra = [{"port": 9100, "sources": ["192.0.2.5"]}, {"port": 9200}]
    rules = quintet.render("worker1", "hardening_rules", firewall_extra_rules=extra)
    [text] = render(quintet, "hardening/firewall.nft.j2", "worker1", hardening_rules=rules)
    assert "ip saddr 192.0.2.5 tcp dport 9100 accept" in text
    assert "        tcp dport 9200 accept" in text


def test_the_firewall_speaks_ipv6(quintet):
    rules = [{"port": 99, "sources": ["fd00::1", "192.0.2.0/24"]}]
    [text] = render(quintet, "hardening/firewall.nft.j2", "web1", hardening_rules=rules)
    assert "ip6 saddr fd00::1 tcp dport 99 accept" in text
    assert "ip saddr 192.0.2.0/24 tcp dport 99 accept" in text


@pytest.mark.parametrize("template", ["keepalived/check.j2"])
def test_scripts_of_the_edge_are_shell_scripts(edged, template, tmp_path):
    (tmp_path / "script").write_text(render(edged, template)[0])
    subprocess.run(["sh", "-n", tmp_path / "script"], check=True)


def test_how_servers_are_outlives_a_reload_unless_they_are_others_by_then(edged, tmp_path):
    socket_path, conf, state = (tmp_path / name for name in ("socket", "haproxy.cfg", "servers"))
    conf.write_text("listen web:80\n    server web1 10.0.0.1:8080 check\n    server web2 10.0.0.2:8443\n")
    names = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_port"
    rows = ["2 web:80 1 web1 10.0.0.1 0 8080", "2 web:80 2 web2 10.0.0.2 0 8080", "2 web:80 3 web3 10.0.0.3 0 8080"]
    paths = {"__haproxy_socket": socket_path, "__haproxy_conf": conf, "__haproxy_state": state}
    [text] = render(edged, "haproxy/quintet-haproxy.j2", **{name: str(path) for name, path in paths.items()})
    (tmp_path / "tool").write_text(text)
    keep = [sys.executable, str(tmp_path / "tool"), "keep"]
    state.write_text("of an earlier reload")
    assert subprocess.run(keep, stderr=subprocess.DEVNULL).returncode == 1
    assert not state.exists()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen()
        tool = subprocess.Popen(keep)
        link, _ = listener.accept()
        with link:
            assert link.recv(100) == b"show servers state\n"
            link.sendall("\n".join(["1", names, *rows, "", ""]).encode())
        assert tool.wait(10) == 0
    assert state.read_text().splitlines() == ["1", names, rows[0]]


@pytest.mark.parametrize("role", ["postgresql", "rabbitmq", "web"])
def test_the_distribution_s_units_are_in_the_sandbox(quintet, role):
    service = unit(render(quintet, f"{role}/sandbox.conf.j2")[0])["Service"]
    assert (service["ProtectSystem"], service["NoNewPrivileges"], service["ProtectHome"]) == ("strict", "yes", "yes")
    assert service["ReadWritePaths"]
    # nginx alone begins as root, and gives that up itself.
    assert bool(service["CapabilityBoundingSet"]) == (role == "web")


# -- Redis ------------------------------------------------------------------------------------------------------------


def test_redis_instances(quintet):
    found = {pairs(text, " ")["tls-port"]: pairs(text, " ") for text in render(quintet, "redis/redis.conf.j2")}
    assert {port: (one["maxmemory"], one["maxmemory-policy"], one["appendonly"]) for port, one in found.items()} == {
        "6379": ("1024mb", "noeviction", "yes"),
        "6380": ("512mb", "allkeys-lfu", "no"),
    }
    for one in found.values():
        assert one["bind"].split() == ["127.0.0.1", "10.213.171.11"]
        assert one["aclfile"] == "/etc/redis/users.acl"
        assert (one["port"], one["tls-auth-clients"], one["tls-protocols"]) == ("0", "yes", "TLSv1.3")
    # Instances share a directory: no two of them write one file.
    for name in ("dbfilename", "appenddirname"):
        assert len({one[name] for one in found.values()}) == len(found)


def test_redis_users(each):
    [text] = render(each, "redis/users.acl.j2")
    users = {line.split()[1]: line.split()[2:] for line in text.splitlines()}
    assert all(line.startswith("user ") for line in text.splitlines())
    assert users.keys() == {"default", "monitor", *NAMES}
    assert users["default"] == ["off"]
    for name, password in {"monitor": SECRETS["monitor_password"], **SECRETS["redis_passwords"]}.items():
        assert users[name][:2] == ["on", f"#{hashlib.sha256(password.encode()).hexdigest()}"]
        assert "nopass" not in users[name]
        assert password not in text
    assert users["monitor"][2:] == ["+info", "+ping"]
    for name in NAMES:
        assert users[name].index("-@dangerous") > users[name].index("+@all")
        assert [rule for rule in users[name] if "select" in rule] == ["-select", "+select|0", "+select|1"]


# -- Redis on several hosts -------------------------------------------------------------------------------------------

DROP_INS = f"{UNITS}/redis-sentinel@quintet.service.d"


def of_redis(ha, host, expression, **more):
    """The value of an expression as the tasks of the role see it on a host."""
    return templar(ha, host, "redis", **more).template(trust_as_template("{{ " + expression + " }}"))


def derived(name):
    """The password of a user that a group of hosts makes for itself."""
    return hashlib.sha256(f"{SECRETS['redis_internal_password']} {name}".encode()).hexdigest()


def test_redis_files_of_a_group_are_more_than_those_of_one_host(ha):
    found = {file["path"]: file for file in of_redis(ha, "data2", "__redis_files")}
    assert found.keys() - FILES["redis"].keys() == {
        *(f"/etc/redis/{name}" for name in ("group.conf", "sentinel-quintet.conf", "sentinel.acl")),
        *(f"{DROP_INS}/{name}.conf" for name in ("daemon", "limits")),
        *(f"{UNITS}/redis-server@{name}.service.d/daemon.conf" for name in ("results", "cache")),
    }
    assert not FILES["redis"].keys() - found.keys()
    # What has a password in it is neither shown nor for others.
    for path, file in found.items():
        text = file.get("content", "")
        assert not any(derived(name) in text for name in ("replica", "sentinel", "operator")), path
        assert path.startswith(UNITS) or file.get("mode") == "0640" or path.endswith("authorities.pem")
    # What a daemon rewrites is not ours.
    assert not [path for path in found if path.startswith("/var/")]


def test_redis_of_a_group_restarts_in_order_and_sentinel_at_once(ha):
    units = {unit["name"]: unit for unit in of_redis(ha, "data1", "__redis_units")}
    assert list(units) == [
        *("redis-server.service", "redis-server@results.service", "redis-server@cache.service"),
        *("redis-sentinel.service", "redis-sentinel@quintet.service"),
    ]
    assert not any(units[f"redis-server@{name}.service"]["restart_after"] for name in ("results", "cache"))
    assert units["redis-server.service"]["enabled"] is units["redis-sentinel.service"]["enabled"] is False
    assert units["redis-sentinel@quintet.service"]["restart_after"] == [
        *("/etc/redis/sentinel-quintet.conf", "/etc/redis/sentinel.acl", f"{DROP_INS}/daemon.conf"),
        *("/etc/redis/identity.pem", "/etc/redis/authorities.pem"),
    ]


def test_redis_of_a_group_reads_its_own_file_first_and_ours_after_it(ha):
    for name, text in zip(("results", "cache", "sentinel"), render(ha, "redis/daemon.conf.j2"), strict=True):
        daemon = "sentinel" if name == "sentinel" else "server"
        ours = "sentinel-quintet" if name == "sentinel" else f"redis-{name}"
        assert unit(text)["Service"]["ExecStart"] == (
            f"/usr/bin/redis-{daemon} /var/lib/redis/{name}.conf --include /etc/redis/{ours}.conf "
            "--supervised systemd --daemonize no"
        )


def test_redis_of_a_group(ha):
    group = pairs(render(ha, "redis/group.conf.j2", "data2")[0], " ")
    assert group.items() >= {
        ("tls-replication", "yes"),
        ("min-replicas-to-write", "1"),
        ("min-replicas-max-lag", "3"),
        ("replica-announce-ip", ha.render("data2", "host_address")),
        ("masteruser", "replica"),
        ("masterauth", derived("replica")),
    }
    titles = set()
    for host in ("data1", "data2", "data3"):
        for text in render(ha, "redis/redis.conf.j2", host):
            found = pairs(text, " ")
            assert found["include"] == "/etc/redis/group.conf"
            assert "replicaof" not in found
            titles.add((found["tls-port"], found["proc-title-template"]))
    # The same on all hosts, which is how they know of each other that they are done.
    assert len(titles) == 2
    assert all(re.fullmatch(r'"\{title\} \{listen-addr\} \{server-mode\} [0-9a-f]{12}"', title) for _, title in titles)


def test_what_needs_a_restart_of_redis_is_in_its_title(ha):
    def titles(**more):
        return [one["title"] for one in of_redis(ha, "data1", "__redis_daemons", **more)]

    def settings(**more):
        return [one["settings"] for one in of_redis(ha, "data1", "__redis_group_instances", **more)]

    instances = ha.render("data1", "redis_instances")
    bigger = {"redis_instances": [instances[0] | {"maxmemory_mb": 9}, instances[1]]}
    assert titles(**bigger) == titles()
    assert settings(**bigger)[0]["maxmemory"] == 9 * 1024 * 1024
    more = {"redis_settings": {"hz": 20, "maxmemory-policy": "volatile-lru"}}
    assert not set(titles(**more)) & set(titles())
    assert not any("maxmemory-policy" in one for one in settings(**more))
    assert titles(redis_listen_addresses=["127.0.0.1"]) == titles()


def test_users_of_redis_in_a_group(ha):
    [text] = render(ha, "redis/users.acl.j2", "data3")
    found = {line.split()[1]: line.split()[2:] for line in text.splitlines()}
    assert found.keys() == {
        *("default", "monitor", "producer", "service"),
        *("replica", "sentinel", "operator", "probe"),
    }
    assert found["probe"] == ["on", "nopass", "+info|replication"]
    assert [name for name, rules in found.items() if "nopass" in rules] == ["probe"]
    for name in ("replica", "sentinel", "operator"):
        assert found[name][:2] == ["on", "#" + hashlib.sha256(derived(name).encode()).hexdigest()]
        assert not [rule for rule in found[name] if rule.startswith(("+@", "allcommands", "~", "allkeys"))]


def test_sentinel(ha):
    found = {}
    for host in ("data1", "data2", "data3"):
        text = lines(render(ha, "redis/sentinel.conf.j2", host)[0])
        found[host] = text
        ours = pairs("\n".join(line for line in text if not line.startswith("sentinel ")), " ")
        assert (ours["port"], ours["tls-port"]) == ("0", "26379")
        assert (ours["tls-auth-clients"], ours["tls-replication"]) == ("yes", "yes")
        # Who is master is for the daemon to know.
        assert not [line for line in text if line.startswith(("sentinel monitor", "sentinel known"))]
        assert f"sentinel announce-ip {ha.render(host, 'host_address')}" in text
        for name in ("results", "cache"):
            assert {
                f"sentinel down-after-milliseconds {name} 3000",
                f"sentinel failover-timeout {name} 15000",
                f"sentinel parallel-syncs {name} 1",
                f"sentinel auth-user {name} sentinel",
                f"sentinel auth-pass {name} {derived('sentinel')}",
            } <= set(text)
    myids = [line.split()[2] for text in found.values() for line in text if line.startswith("sentinel myid")]
    assert len(set(myids)) == 3
    assert {len(one) for one in myids} == {40}


def test_haproxy_goes_to_the_master_of_redis(ha):
    [text] = render(ha, "haproxy/haproxy.cfg.j2", "web1")
    for port in (6379, 6380):
        section = re.search(rf"listen redis\.quintet\.internal:{port}\n(.*?)(?=\n\n|\Z)", text, re.DOTALL)[1]
        servers = re.findall(r"server (\w+) \S+ (.*)", section)
        assert [name for name, _ in servers] == ["data1", "data2", "data3"]
        assert all(" check " in words + " " for _, words in servers)
        assert "AUTH\\ probe\\ probe" in section
        assert "role:master" in section


def test_flows_between_hosts_of_redis(ha):
    others = {ha.render(host, "host_address") for host in ("data1", "data3")}
    rules = {rule["port"]: set(rule["sources"]) for rule in ha.render("data2", "open_ports") if "sources" in rule}
    assert rules[26379] == others
    assert rules[6379] > others
    assert rules[6380] > others


# -- RabbitMQ ---------------------------------------------------------------------------------------------------------


def rabbitmq(topology, **more):
    """The settings of RabbitMQ."""
    [text] = render(topology, "rabbitmq/rabbitmq.conf.j2", **more)
    return pairs(text, " = ")


def test_rabbitmq_settings(quintet):
    found = rabbitmq(quintet)
    assert {name: value for name, value in found.items() if name.startswith("listeners")} == {
        "listeners.tcp": "none",
        "listeners.ssl.1": "127.0.0.1:5671",
        "listeners.ssl.2": "10.213.171.12:5671",
    }
    assert (found["ssl_options.verify"], found["ssl_options.fail_if_no_peer_cert"]) == ("verify_peer", "true")
    assert [value for name, value in found.items() if name.startswith("ssl_options.versions")] == ["tlsv1.3"]
    assert (found["management.tcp.ip"], found["management.tcp.port"]) == ("10.213.171.12", "15672")
    assert (found["cluster_name"], found["net_ticktime"]) == ("quintet", "8")
    assert found["vm_memory_high_watermark.absolute"] == "1536MiB"
    assert found["log.connection.level"] == "error"
    assert not [name for name in found if name.startswith("default_")], "these act on an empty broker only"
    assert not {"True", "False"} & set(found.values()), "its booleans are lower-case"


def test_rabbitmq_takes_more_settings(onebox):
    found = rabbitmq(onebox, rabbitmq_settings={"heartbeat": 30, "log.console.level": "debug"})
    assert (found["heartbeat"], found["log.console.level"]) == ("30", "debug")
    assert found["listeners.ssl.1"] == "127.0.0.1:5671"
    assert "listeners.ssl.2" not in found


def test_the_management_page_is_behind_tls(quintet):
    """But on the containers of this machine, where nothing leaves it."""
    found = rabbitmq(quintet, rabbitmq_management_tls=True)
    assert {name for name in found if name.startswith("management.tcp")} == set()
    assert (found["management.ssl.ip"], found["management.ssl.port"]) == ("10.213.171.12", "15672")
    assert {found[f"management.ssl.versions.{number}"] for number in (1, 2)} == {"tlsv1.3", "tlsv1.2"}


def test_rabbitmq_keeps_the_cluster_to_itself(each):
    host = each.hosts("rabbitmq")[0]
    [text] = render(each, "rabbitmq/rabbitmq-env.conf.j2")
    words = dict(word.split("=", 1) for word in shlex.split(text, comments=True) if "=" in word)
    assert words["NODENAME"] == f"rabbit@{host}.quintet.internal"
    assert words["USE_LONGNAME"] == "true"
    assert words["ERL_EPMD_ADDRESS"] == "127.0.0.1"
    assert words["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] == (
        "-rabbit dead_letter_worker_publisher_confirm_timeout 5000 -kernel inet_dist_use_interface {127,0,0,1}"
    )
    assert words["RABBITMQ_CTL_ERL_ARGS"] == ""
    [socket] = render(each, "rabbitmq/epmd.socket.j2")
    assert unit(socket)["Socket"]["ListenStream"] == "127.0.0.1:4369"


def test_rabbitmq_plugins(each):
    assert render(each, "rabbitmq/enabled_plugins.j2") == ["[rabbitmq_management].\n"]


# -- Projects ---------------------------------------------------------------------------------------------------------


def environment(text):
    """Variables as systemd reads an EnvironmentFile: in double quotes, a backslash frees only " \\ ` and $."""
    found = {}
    for line in lines(text):
        name, value = re.fullmatch(r'([A-Z_]+)="((?:[^"\\]|\\.)*)"', line).groups()
        found[name] = re.sub(r'\\(["\\`$])', r"\1", value)
    return found


def test_environment_says_what_the_contract_says(each):
    for name in NAMES:
        one = project(each, name)
        [text] = render(each, "django_project/environment.j2", project=one)
        expected = each.render(each.hosts()[0], "project_environment", project=one)
        assert environment(text) == {"DJANGO_SETTINGS_MODULE": f"{name}.settings", **expected}


def test_an_overlay_stands_before_the_settings(onebox):
    one = project(onebox, settings_overlay=True)
    found = environment(render(onebox, "django_project/environment.j2", project=one)[0])
    assert (found["DJANGO_SETTINGS_MODULE"], found["QUINTET_SETTINGS"]) == ("quintet_settings", "producer.settings")


def test_environment_keeps_ugly_values(onebox):
    [text] = render(onebox, "django_project/environment.j2", project=project(onebox, environment={"UGLY": UGLY}))
    found = environment(text)
    assert found["UGLY"] == UGLY
    assert found["SECRET_KEY"] == SECRETS["django_secret_keys"]["producer"]


def test_quintet_manage_is_a_shell_script(each, tmp_path):
    [text] = render(each, "django_project/quintet-manage.j2")
    assert text.splitlines()[0] == "#!/bin/sh"
    script = tmp_path / "quintet-manage"
    script.write_text(text)
    run = ["sh", str(script)]
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    usage = subprocess.run([*run, "producer"], capture_output=True, text=True, check=False)
    assert (usage.returncode, usage.stderr.split()[0]) == (64, "usage:")
    for arguments, says in ((["no-such", "x"], "current"), (["--release", "r1", "no-such", "x"], "releases/r1")):
        missing = subprocess.run([*run, *arguments], capture_output=True, text=True, check=False)
        assert missing.returncode == 66
        assert f"no-such has no {says} on this host" in missing.stderr


@pytest.mark.parametrize(("arguments", "release"), [([], "r1"), (["--release", "r2"], "r2")])
def test_quintet_manage_runs_a_command_in_a_release(onebox, tmp_path, arguments, release):
    [text] = render(onebox, "django_project/quintet-manage.j2", django_project_root=str(tmp_path))
    for name in ("r1", "r2"):
        (tmp_path / "app/releases" / name).mkdir(parents=True)
    (tmp_path / "app/current").symlink_to("releases/r1")
    (tmp_path / "app/never").write_text("flush\n")
    stand_in = tmp_path / "bin/systemd-run"
    stand_in.parent.mkdir()
    stand_in.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stand_in.chmod(0o755)
    environment = {"PATH": f"{stand_in.parent}:/usr/bin:/bin"}
    command = ["sh", "-c", text, "quintet-manage", *arguments, "app", "migrate", "a  b"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    home = tmp_path / "app"
    assert ran[-5:] == [f"{home}/releases/{release}/venv/bin/python", "-m", "django", "migrate", "a  b"]
    assert {"--uid=app", "--gid=app", "--wait", "--property=NoNewPrivileges=yes"} <= set(ran)
    assert f"--property=WorkingDirectory={home}/releases/{release}/project" in ran
    assert f"--property=EnvironmentFile={home}/environment{'.next' if arguments else ''}" in ran
    assert f"--setenv=STATIC_ROOT={home}/releases/{release}/static" in ran
    # What must never run does not; what only begins so, does.
    for name, status in (("flush", 77), ("flush_cache", 0), ("--flush", 0)):
        command[-2:] = [name, "flush"]
        assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == status
    # Another program than Django's, as a unit with a name.
    if not arguments:
        command[4:] = ["--module", "gunicorn", "--unit", "try.service", "app", "flush"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
        assert ran[-3:] == ["-m", "gunicorn", "flush"]
        # Or one on standard input.
        command[4:] = ["--module", "-", "app", "plan"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
        assert ran[-3:] == [f"{home}/releases/r1/venv/bin/python", "-", "plan"]
        command[4:] = ["--module", "gunicorn", "--unit", "try.service", "app", "flush"]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
        assert "--unit=try.service" in ran


# -- Units ------------------------------------------------------------------------------------------------------------


def test_celery_unit(each):
    _, text = render(each, "celery_worker/celery.service.j2")
    service = unit(text)["Service"]
    assert service["ExecStart"].split() == [
        *("/opt/quintet/service/current/venv/bin/celery", "--quiet", "--app", "service", "worker"),
        *("--hostname", "service:${INVOCATION_ID}@%H", "--queues", "service", "--concurrency", "4"),
        *("-O", "fair", "--without-gossip", "--without-mingle", "--loglevel", "INFO"),
    ]
    assert_unit_of_project(service, "service")
    assert service["KillMode"] == "mixed", "SIGTERM to the main process alone is the warm stop"
    assert int(service["TimeoutStopSec"]) > 600
    assert (service["MemoryHigh"], service["MemoryMax"]) == ("819M", "1024M")
    assert (service["Type"], service["NotifyAccess"], service["WatchdogSec"]) == ("notify", "main", "60")


def test_celery_unit_with_every_key(onebox):
    worker = {
        **{"name": "x-slow", "project": "x", "directory": "/x", "celery_app": "a.b", "queues": ["p", "q"]},
        **{"pool": "threads", "concurrency": 3, "max_tasks_per_child": 5, "memory_max_mb": 100},
        **{"time_limit_seconds": 60, "soft_time_limit_seconds": 50, "stop_timeout_seconds": 7},
    }
    [text] = render(onebox, "celery_worker/celery.service.j2", celery_worker_workers=[worker])
    service = unit(text)["Service"]
    assert service["ExecStart"].split()[4:] == [
        *("worker", "--hostname", "x-slow:${INVOCATION_ID}@%H", "--queues", "p,q"),
        *("--pool", "threads", "--concurrency", "3"),
        *("--max-tasks-per-child", "5", "--time-limit", "60", "--soft-time-limit", "50"),
        *("-O", "fair", "--without-gossip", "--without-mingle", "--loglevel", "INFO"),
    ]
    assert (service["TimeoutStopSec"], service["MemoryHigh"], service["MemoryMax"]) == ("7", "80M", "100M")
    assert (service["Type"], "WatchdogSec" in service) == ("exec", False), "not every project speaks to systemd"


def test_a_worker_without_queues_has_celerys_own(onebox):
    worker = {"name": "x", "project": "x", "directory": "/x", "celery_app": "x"}
    [text] = render(onebox, "celery_worker/celery.service.j2", celery_worker_workers=[worker])
    assert "--queues celery -O" in " ".join(unit(text)["Service"]["ExecStart"].split())


def test_beat_unit(onebox):
    [text] = render(onebox, "celery_worker/beat.service.j2", celery_worker_beats=BEATS)
    service = unit(text)["Service"]
    assert service["ExecStart"].split() == [
        *("/x/current/venv/bin/celery", "--quiet", "--app", "a.b", "beat", "--scheduler", "s:S"),
        *("--schedule", "%S/x/beat-schedule", "--pidfile=", "--loglevel", "INFO"),
    ]
    units = evaluated(onebox, "celery_worker", "__celery_worker_units", celery_worker_beats=BEATS)
    assert (units[-1]["name"], units[-1]["enabled"]) == ("beat-x.service", True)
    elsewhere = [BEATS[0] | {"here": False}]
    units = evaluated(onebox, "celery_worker", "__celery_worker_units", celery_worker_beats=elsewhere)
    assert (units[-1]["name"], units[-1]["enabled"]) == ("beat-x.service", False)


def test_daemon_unit(each):
    [text] = render(each, "web/daemon.service.j2")
    service = unit(text)["Service"]
    assert service["ExecStart"] == "/opt/quintet/producer/current/venv/bin/python -m django relay"
    assert_unit_of_project(service, "producer")
    assert (service["Type"], service["NotifyAccess"], service["WatchdogSec"]) == ("notify", "main", "60")


def test_daemon_unit_with_every_key(onebox):
    daemon = {"name": "d", "command": "run --all", "memory_max_mb": 100}
    sites = [{"project": "x", "directory": "/x", "daemons": [daemon], "application": "x"}]
    sites += [{"project": "y", "directory": "/y", "application": "y"}]
    [text] = render(onebox, "web/daemon.service.j2", web_sites=sites)
    service = unit(text)["Service"]
    assert service["ExecStart"] == "/x/current/venv/bin/python -m django run --all"
    assert (service["Type"], service["MemoryHigh"], service["MemoryMax"]) == ("exec", "80M", "100M")


def test_gunicorn_unit(each):
    [text] = render(each, "web/gunicorn.service.j2")
    [socket] = render(each, "web/gunicorn.socket.j2")
    assert unit(text)["Unit"]["Requires"] == "gunicorn-producer.socket"
    service = unit(text)["Service"]
    assert service["ExecStart"].split() == [
        *("/opt/quintet/producer/current/venv/bin/gunicorn", "--config", "gunicorn.conf.py"),
        "producer.wsgi:application",
    ]
    assert_unit_of_project(service, "producer")
    assert service["KillMode"] == "mixed"
    listens = unit(socket)["Socket"]
    assert (listens["ListenStream"], listens["SocketUser"]) == ("/run/gunicorn-producer.sock", "www-data")
    assert listens["SocketMode"] == "0600"


def test_gunicorn_unit_with_every_key(onebox):
    site = {"project": "x", "directory": "/x", "application": "x.asgi:application", "interface": "asgi", "prefix": "/s"}
    site |= {"worker_class": "a.B", "workers": 3, "threads": 2, "timeout_seconds": 9, "memory_max_mb": 100}
    service = unit(render(onebox, "web/gunicorn.service.j2", web_sites=[site])[0])["Service"]
    assert service["ExecStart"].split()[1:] == [
        *("--config", "/x/current/gunicorn.conf.py", "--worker-class", "a.B"),
        *("--workers", "3", "--threads", "2", "--timeout", "9"),
        "x.asgi:application",
    ]
    assert service["MemoryMax"] == "100M"
    assert "Environment=SCRIPT_NAME=/s" in render(onebox, "web/gunicorn.service.j2", web_sites=[site])[0]


def test_a_try_is_what_the_service_will_be(onebox):
    sites = [
        {"project": "x", "directory": "/x", "application": "x:x", "release": "r", "host_names": ["a", "b"]},
        {"project": "y", "directory": "/y", "application": "y:y", "release": "r", "host_names": ["c"], "prefix": "/y"},
    ]
    sites[1]["health"] = {"path": "/ok", "statuses": [404], "seconds": 5}
    one, two = evaluated(onebox, "web", "__web_tries", web_sites=sites)
    assert (one["host"], one["path"], one["prefix"], one["seconds"], one["tcp"]) == ("a", "/", "", 30, False)
    assert {200, 302, 404} < set(one["statuses"])
    assert 500 not in one["statuses"]
    assert (two["path"], two["prefix"], two["statuses"], two["seconds"]) == ("/ok", "/y", [404], 5)
    for site, tried in zip(sites, (one, two), strict=True):
        service = unit(render(onebox, "web/gunicorn.service.j2", web_sites=[site])[0])["Service"]
        assert service["ExecStart"].split(maxsplit=1)[1] == tried["gunicorn"]


def assert_unit_of_project(service, project):
    """A service of a project runs as its user, with its environment, from its current release, in the sandbox."""
    assert (service["User"], service["Group"], service["StateDirectory"]) == (project, project, project)
    assert service["EnvironmentFile"] == f"/opt/quintet/{project}/environment"
    assert service["WorkingDirectory"] == f"/opt/quintet/{project}/current/project"
    assert service["Restart"] == "always"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""


# -- nginx ------------------------------------------------------------------------------------------------------------

SITES = [
    {"project": "one", "directory": "/o/one", "application": "x", "host_names": ["a.example", "b.example"]},
    {"project": "two", "directory": "/o/two", "application": "x", "host_names": ["c.example"]},
]


def servers(text):
    """The directives of each server block of nginx, as (name, rest)."""
    assert text.count("{") == text.count("}")
    blocks = re.findall(r"^server \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    return [re.findall(r"^\s*(\w+) ([^;{]+);$", block, re.MULTILINE) for block in blocks]


def test_nginx_serves_the_site(each):
    [text] = render(each, "web/nginx.conf.j2")
    [server] = servers(text)
    assert ("listen", "80 default_server") in server
    assert ("server_name", "localhost") in server
    assert ("alias", "/opt/quintet/producer/current/static/") in server
    assert ("proxy_pass", "http://producer") in server
    assert "server unix:/run/gunicorn-producer.sock fail_timeout=0;" in text
    assert ("proxy_set_header", "X-Real-IP $remote_addr") in server


def test_nginx_serves_several_sites_and_the_first_by_default(onebox):
    one, two = servers(render(onebox, "web/nginx.conf.j2", web_sites=SITES, web_port=8080)[0])
    assert ("listen", "8080 default_server") in one
    assert ("listen", "8080") in two
    assert ("server_name", "a.example b.example") in one
    assert ("proxy_pass", "http://two") in two


def test_nginx_serves_a_site_with_every_key(onebox):
    site = SITES[0] | {"prefix": "/shop", "request_mb": 20, "static_url": "/shop/static/", "media_url": "/shop/media/"}
    [server] = servers(render(onebox, "web/nginx.conf.j2", web_sites=[site | {"timeout_seconds": 60}])[0])
    assert ("client_max_body_size", "20m") in server
    assert ("proxy_pass", "http://one") in server, "a WSGI server takes the prefix off itself"
    assert ("proxy_read_timeout", "65s") in server
    assert [value for name, value in server if name == "alias"] == ["/o/one/current/static/", "/var/lib/one/media/"]
    text = render(onebox, "web/nginx.conf.j2", web_sites=[site | {"interface": "asgi", "static_url": ""}])[0]
    [server] = servers(text)
    assert ("proxy_pass", "http://one/") in server
    assert ("proxy_set_header", "Upgrade $http_upgrade") in server
    assert "map $http_upgrade $quintet_connection {" in text
    assert "/current/static/" not in text
    assert re.findall(r"location (\S+) \{", text) == ["@too_large", "@too_many", "/shop/media/", "/shop/"]


def test_nginx_limits_what_a_site_limits(onebox):
    limits = [{"path": "/login/", "per_minute": 10}, {"path": "/token", "per_minute": 60, "burst": 9}]
    site = SITES[0] | {"prefix": "/shop", "interface": "asgi", "limits": limits}
    [text] = render(onebox, "web/nginx.conf.j2", web_sites=[site])
    [server] = servers(text)
    assert "limit_req_zone $quintet_sender zone=one_1:1m rate=10r/m;" in text
    assert "limit_req_zone $quintet_sender zone=one_2:1m rate=60r/m;" in text
    assert [value for name, value in server if name == "limit_req"] == [
        "zone=one_1 burst=5 nodelay",
        "zone=one_2 burst=9 nodelay",
    ]
    # What is taken off is the prefix, and not the path that is limited.
    assert [value for name, value in server if name == "proxy_pass"] == [
        "http://one/login/",
        "http://one/token",
        "http://one/",
    ]


@pytest.mark.parametrize(
    ("site", "open_paths"),
    [
        ({}, ""),
        ({"health": {"path": "/live"}}, "|/live"),
        (
            {"health": {"path": "/live.txt"}, "open_paths": ["/health"], "prefix": "/shop"},
            r"|/shop/health|/shop/live\.txt",
        ),
    ],
)
def test_nginx_has_people_wait_but_not_for_what_must_answer(onebox, site, open_paths):
    exempt = ["192.0.2.7"]
    [text] = render(onebox, "web/nginx.conf.j2", web_sites=[SITES[0] | site], web_maintenance_exempt=exempt)
    assert (
        "geo $remote_addr $quintet_visitor {\n    default 1;\n    127.0.0.0/8 0;\n    ::1 0;\n    192.0.2.7 0;" in text
    )
    assert f'if ($uri ~ "^(/quintet-maintenance.html${open_paths})") {{' in text
    assert "if (!-f /etc/nginx/quintet-maintenance.html) {" in text


HTTPS = {"web_https_port": 443, "web_identity": "-- pem --", "web_hsts": "max-age=100"}


def test_nginx_has_nothing_in_the_clear_but_the_way_to_https(onebox):
    stranger, clear, one, two = servers(render(onebox, "web/nginx.conf.j2", web_sites=SITES, **HTTPS)[0])
    assert stranger == [("listen", "80 default_server"), ("server_tokens", "off"), ("return", "400")]
    assert ("server_name", "a.example b.example c.example") in clear
    assert ("return", "308 https://$host$request_uri") in clear
    for server, listen in ((one, "443 ssl default_server"), (two, "443 ssl")):
        assert ("listen", listen) in server
        assert ("ssl_certificate", "/etc/nginx/quintet.pem") in server
        assert ("ssl_protocols", "TLSv1.2 TLSv1.3") in server
        # Of the application, of static files and of maintenance; what the application says itself is not said twice.
        assert server.count(("add_header", 'Strict-Transport-Security "max-age=100" always')) == 3
        assert ("proxy_hide_header", "Strict-Transport-Security") in server
    [text] = render(onebox, "web/nginx.conf.j2", web_sites=SITES, **HTTPS | {"web_https_port": 8443, "web_hsts": ""})
    assert "https://$host:8443$request_uri" in text
    assert "Strict-Transport-Security" not in text


def test_nginx_believes_trusted_proxies_alone(onebox):
    [text] = render(onebox, "web/nginx.conf.j2", web_trusted_proxies=["192.0.2.0/24"])
    [server] = servers(text)
    assert ("set_real_ip_from", "192.0.2.0/24") in server
    assert ("proxy_set_header", "X-Forwarded-Proto $quintet_scheme") in server
    assert "    192.0.2.0/24 1;" in text
    [server] = servers(render(onebox, "web/nginx.conf.j2")[0])
    assert ("proxy_set_header", "X-Forwarded-Proto $scheme") in server
    assert not [value for name, value in server if "real_ip" in name]


def test_nginx_behind_an_edge_knows_who_asks(edged):
    [text] = render(edged, "web/nginx.conf.j2")
    [server] = servers(text)
    assert [value for name, value in server if name == "listen"] == [
        "8080 proxy_protocol default_server",
        "127.0.0.1:8080 default_server",
    ]
    assert [value for name, value in server if name == "set_real_ip_from"] == ["10.213.10.11", "10.213.10.12"]
    assert ("real_ip_header", "proxy_protocol") in server
    stranger, clear, site = servers(render(edged, "web/nginx.conf.j2", **HTTPS | {"web_https_port": 8443})[0])
    for server in (stranger, clear, site):
        assert ("real_ip_header", "proxy_protocol") in server
        assert ("access_log", "/var/log/nginx/access.log combined if=$quintet_logged") in server
    assert ("listen", "8080 proxy_protocol default_server") in stranger
    assert ("listen", "127.0.0.1:8080") in clear
    assert ("return", "308 https://$host$request_uri") in clear, "people know another port"
    assert ("listen", "8443 proxy_protocol ssl default_server") in site


def test_nginx_behind_an_edge_believes_trusted_proxies_that_the_edge_names(edged):
    [text] = render(edged, "web/nginx.conf.j2", web_trusted_proxies=["192.0.2.0/24"])
    [server] = servers(text)
    assert [value for name, value in server if name == "set_real_ip_from"] == ["10.213.10.11", "10.213.10.12"]
    assert "geo $remote_addr $quintet_trusted {" in text
    assert "    default $quintet_client;\n    GET" in text
    assert ("proxy_set_header", "X-Forwarded-For $quintet_client") in server
    [pattern] = re.findall(r'"~(.*)" \$quintet_last;', text)
    for said, address in {
        "1:198.51.100.7": "198.51.100.7",
        "1:203.0.113.9, 198.51.100.7": "198.51.100.7",
        "1:2001:db8::1,2001:db8::7": "2001:db8::7",
        "0:203.0.113.9": None,
        "1:": None,
        "1:evil": None,
    }.items():
        found = re.search(pattern.replace("?<", "?P<"), said)
        assert (found and found["quintet_last"]) == address, said


ACME = HTTPS | {
    "web_acme": {"directory": "https://acme.example/dir", "email": "a@b.example", "authorities": "-- ca --"}
}


def test_acme_is_asked_for_each_name_and_until_it_answers_there_is_a_certificate(onebox):
    [text] = render(onebox, "web/acme.service.j2", web_sites=SITES, **ACME)
    assert "\n  --domain a.example --domain b.example --domain c.example\n" in text
    for option in ("--server https://acme.example/dir", "--email a@b.example", "REQUESTS_CA_BUNDLE="):
        assert option in text
    [text] = render(onebox, "web/acme.service.j2", web_sites=SITES, **HTTPS | {"web_acme": {"email": "a@b.example"}})
    assert "--server" not in text
    assert "REQUESTS_CA_BUNDLE" not in text
    _, clear, one, _ = servers(render(onebox, "web/nginx.conf.j2", web_sites=SITES, **ACME)[0])
    assert ("root", "/var/lib/quintet-acme") in clear
    assert ("ssl_certificate", "/etc/nginx/quintet-acme.pem") in one
    # Nobody but ACME writes what it has got.
    files = {
        file["path"]: file
        for file in evaluated(
            onebox, "web", "__web_files", web_sites=[site | {"release": "x"} for site in SITES], **ACME
        )
    }
    assert "/etc/nginx/quintet-acme.pem" not in files
    assert files["/etc/nginx/quintet.pem"] == {
        "path": "/etc/nginx/quintet.pem",
        "mode": "0600",
        "secret": "-- pem --\n",
    }
    units = [unit["name"] for unit in evaluated(onebox, "web", "__web_units", web_sites=SITES, **ACME)]
    assert units[-2:] == ["nginx.service", "quintet-acme.service"]


def test_nginx_has_one_server_for_sites_of_one_name(onebox):
    sites = [SITES[1], SITES[0] | {"prefix": "/one"}, SITES[0] | {"project": "three"}]
    text = render(onebox, "web/nginx.conf.j2", web_sites=sites)[0]
    one, two = servers(text)
    assert [value for name, value in one if name == "proxy_pass"] == ["http://one", "http://three"]
    assert ("listen", "80 default_server") in two
    assert ("listen", "80") in one
