"""What the fast tests share: ugly passwords, the topologies with them, and our modules."""

import contextlib
import functools
import importlib.util

from tests.topology import ROOT, Topology

# Every character that means something to a URL, a shell, systemd, SQL or a configuration file.
UGLY = 'a/b%c:d@e#f?g&h+i\'j"k$l\\m`n o;p=qé\\\\r\\"s\\$t\\'
UGLY_IN_URL = "a%2Fb%25c%3Ad%40e%23f%3Fg%26h%2Bi%27j%22k%24l%5Cm%60n%20o%3Bp%3Dq%C3%A9%5C%5Cr%5C%22s%5C%24t%5C"

SECRETS = {
    "broker_password": f"broker {UGLY}",
    "broker_passwords": {"producer": f"broker {UGLY}", "service": f"broker {UGLY}"},
    "broker_cookie": "cookie",
    "backup_passphrase": "passphrase",
    "monitor_password": f"monitor {UGLY}",
    "redis_internal_password": f"redis internal {UGLY}",
    "redis_passwords": {"producer": f"redis {UGLY}", "service": f"redis {UGLY}"},
    "database_passwords": {
        name: f"{name} {UGLY}" for name in ("producer", "service", "producer_owner", "service_owner")
    },
    "django_secret_keys": {"producer": f"producer key {UGLY}", "service": f"service key {UGLY}"},
    "tls_identity": "-- certificate --\n-- private key --",
}
# What check.yml says when it has packed the sources.
ARCHIVES = {
    "producer": "/x/.cache/producer/aaaaaaaaaaaa.tar",
    "service": "/x/.cache/service/bbbbbbbbbbbb.tar",
}
TOPOLOGIES = ("onebox", "quintet")
# Those that are in inventories/; in the last, several hosts have a tier, by roles that are there only.
INVENTORIES = (*TOPOLOGIES, "ha")

# Two hosts where one is usual, to tell "each" from "the first".
WIDE = """\
all:
  children:
    postgresql: {hosts: {data1: }}
    redis: {hosts: {data1: }}
    rabbitmq: {hosts: {data1: }}
    web: {hosts: {web1: , web2: }}
    worker: {hosts: {worker1: , worker2: , web2: }}
"""

# An edge in front of two web hosts.
EDGED = """\
all:
  children:
    postgresql: {hosts: {data1: }}
    redis: {hosts: {data1: }}
    rabbitmq: {hosts: {data1: }}
    edge: {hosts: {edge1: , edge2: }}
    web: {hosts: {web1: , web2: }}
    worker: {hosts: {worker1: }}
"""

# `ha`, split by editing the inventory alone.
APART = """\
all:
  children:
    ha:
      children:
        etcd: {hosts: {etcd1: , etcd2: , etcd3: }}
        postgresql: {hosts: {postgresql1: , postgresql2: , postgresql3: }}
        redis: {hosts: {redis1: , redis2: , redis3: }}
        rabbitmq: {hosts: {rabbitmq1: , rabbitmq2: , rabbitmq3: , rabbitmq4: , rabbitmq5: }}
        edge: {hosts: {edge1: , edge2: }}
        backup: {hosts: {edge2: }}
        web: {hosts: {web1: , web2: , web3: }}
        worker: {hosts: {worker1: , worker2: }}
"""


def topology(source, **extra):
    """A topology on containers; its secrets are the ugly ones, and none is ever made in the repository."""
    name = source if source in INVENTORIES else "wide"
    source = f"inventories/{source}.yml" if source in INVENTORIES else source
    # What looks at the environment is given here, so that a shell's variables do not change a test.
    given = {"stack": name, "node_web_port": 8000, "node_management_port": 15672, "secrets_dir": "/nonexistent"}
    given |= {"archives": ARCHIVES, "tls_authorities": "-- authority --"}
    return Topology(source, "inventories/containers.yml", extra=given | SECRETS | extra)


def module(name):
    """A module of plugins/modules, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"plugins/modules/{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@functools.cache
def argument_spec(name):
    """The options of one of our modules, as it gives them to Ansible."""
    loaded = module(name)
    given = []

    def stop(argument_spec, **more):
        given.append(argument_spec)
        raise InterruptedError

    loaded.AnsibleModule = stop
    with contextlib.suppress(InterruptedError):
        loaded.main()
    return given[0]


def role_names():
    """The roles; none at all is an error."""
    names = sorted(path.parent.name for path in ROOT.glob("roles/*/tasks"))
    assert "postgresql" in names, "roles/ is not where it was"
    return names
