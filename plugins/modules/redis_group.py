#!/usr/bin/python
"""A host of a Redis replication group: its part at the first start, and its settings without losing the master."""

DOCUMENTATION = r"""
module: redis_group
short_description: A host's part in replicated Redis instances, and changes of them while they run
description:
  - Who is master is known by the daemons alone, which write it to files of their own. C(state=seeded) makes such a file
    where it is missing, once. It asks the Sentinels of the other hosts first, so that a host that was replaced comes
    back as a replica, and waits until they let another host be master of what it has lost; where there are none, the
    first host is master.
  - C(state=settled) reads what runs here and writes the difference. Settings, users and certificates change while an
    instance runs. What needs a restart is told by its title; then hosts restart one after the other, the master last,
    when another has taken over with all that was acknowledged.
  - C(state=handed_over), on one host for all, lets C(next_master), or any other host than now, be master of each
    instance.
options:
  state: {description: What to bring about., type: str, choices: [seeded, settled, handed_over], default: seeded}
  next_master:
    description: For C(state=handed_over), the name of who is to be master. Where it is already, nothing is done.
    type: str
    default: ""
  host: {description: "This host's name, as in C(hosts).", type: str, required: true}
  hosts:
    description: All hosts of the group. The first is master if nobody knows better.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: The name in its certificate., type: str, required: true}
      address: {description: Where the others reach it., type: str, required: true}
  together:
    description: >-
      Names of the hosts that are brought to the same settings at the same time, and wait for each other's restart.
    type: list
    elements: str
    default: []
  instances:
    description: The instances. Each is a group of its own, which Sentinel knows by its name.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: Name; also of its unit., type: str, required: true}
      port: {description: TCP port., type: int, required: true}
      title:
        description: The proc-title-template, whose change needs a restart.
        type: str
        required: true
      settings:
        description: What may change while it runs, in the words of C(CONFIG GET).
        type: dict
        default: {}
      memory_max_mb: {description: "MemoryMax of its unit, as the unit's files say.", type: int, required: true}
  masterauth: {description: Password with which replicas come to the master., type: str, required: true}
  user: {description: Who does all this., type: str, required: true}
  password: {description: Password of that user., type: str, required: true}
  identity: {description: "This host's certificate with its key, as PEM.", type: str, required: true}
  authorities: {description: Whom to trust, as PEM., type: str, required: true}
  sentinel_port: {description: TCP port of the Sentinels., type: int, required: true}
  directory: {description: Where the daemons' own files are., type: path, required: true}
  users_file: {description: The file of users., type: path, required: true}
  certificate_files:
    description: By Redis' settings, the files of certificates.
    type: dict
    required: true
  restart_after:
    description: Files whose change needs a restart.
    type: list
    elements: path
    default: []
  patience: {description: Seconds to wait for other hosts., type: int, default: 60}
author: Quintet
"""

EXAMPLES = r"""
- name: Bring the instances to their settings
  redis_group:
    state: settled
    host: data1.example
    hosts: [{name: data1.example, address: 192.0.2.1}, {name: data2.example, address: 192.0.2.2}]
    instances: [{name: cache, port: 6380, title: "{title} 1", settings: {maxmemory: "1048576"}, memory_max_mb: 66}]
    masterauth: "{{ replica_password }}"
    user: operator
    password: "{{ operator_password }}"
    identity: "{{ certificate }}"
    authorities: "{{ authorities }}"
    sentinel_port: 26379
    directory: /var/lib/redis
    users_file: /etc/redis/users.acl
    certificate_files: {tls-cert-file: /etc/redis/identity.pem}
"""

RETURN = r"""
actions:
  description: What was done, in order, without secrets.
  type: list
  returned: always
masters:
  description: By instance the name of its master before, and of that after.
  type: dict
  returned: if C(state=handed_over)
"""

import contextlib
import os
import pwd
import socket
import ssl
import time
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule

# When a unit last read its files anew; on tmpfs, as a process does not outlive a reboot either.
RELOADS = "/run/quintet/reloaded"
HEADER = "# Written by the daemon. What is wanted is in /etc/redis, and is read after this.\n"
TITLE = "proc-title-template"
# Nobody writes while the master changes, for so long at most.
PAUSE = 15
# Within this time Sentinels that are a majority let another host be master of what one has lost.
FAILOVER_SECONDS = 45
# Of replicas, in Sentinel's eyes: as all have it, and who never takes over.
USUAL, NEVER = "100", "0"


class Refused(Exception):
    """An answer that is an error."""


def encoded(words):
    """A command in Redis' protocol."""
    parts = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def decoded(file):
    """The next answer: a text, a list, or None; an error is raised as Refused."""
    line = file.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection was closed")
    kind, rest = line[:1], line[1:-2].decode(errors="replace")
    if kind == b"-":
        raise Refused(rest)
    if kind in (b"+", b":"):
        return rest
    if int(rest) < 0:
        return None
    if kind == b"$":
        return file.read(int(rest) + 2)[:-2].decode(errors="replace")
    return [decoded(file) for _ in range(int(rest))]


def pairs(words):
    """A flat list of names and values as a dict."""
    return dict(zip(words[::2], words[1::2], strict=True))


def facts(text):
    """What INFO says, as a dict."""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def offsets(info):
    """The offset that a master has written to, and those that its replicas have acknowledged, of INFO replication."""
    replicas = [value for name, value in info.items() if name.startswith("slave") and "offset=" in value]
    told = [dict(part.split("=", 1) for part in replica.split(",")) for replica in replicas]
    return int(info["master_repl_offset"]), [int(one["offset"]) for one in told if one["state"] == "online"]


def newest(words):
    """Of what several Sentinels say of a master, as (epoch, address, port), the newest word; None of nobody."""
    return max(words, default=(0, None, None))[1:] if words else None


def chosen(told, mine, hosts, address):
    """The address of the master from which a host with no file of its own begins.

    `told` is what Sentinels say, (address, port) or None; `mine` what this host's file of the instance says, if there
    is one; `address` is this host's. Who lost all it had is no master, even where the others still take it for one.
    """
    if told:
        others = [host["address"] for host in hosts if host["address"] != address]
        return told[0] if told[0] != address or mine is not None else others[0]
    return mine or hosts[0]["address"]


def master_of(text, address):
    """The address of the master in a daemon's file, where `address` stands for no other."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] in (["replicaof"], ["slaveof"]):
            return words[1].strip('"')
    return address


def remembered(text):
    """What a daemon's file says that nobody else knows: whom it follows."""
    return "".join(f"{line}\n" for line in text.splitlines() if line.split()[:1] in (["replicaof"], ["slaveof"]))


def may_restart(place, role, others):
    """Whether it is a host's turn: `others` are (place, role, done) of those that are brought along."""
    if role == "master":
        return all(done for _, _, done in others)
    return all(done for other, of, done in others if other < place and of != "master")


def changed_at(paths):
    """When the newest of these files changed, seconds since the epoch; a file that is not there did not change."""
    return max((os.lstat(path).st_mtime for path in paths if os.path.lexists(path)), default=0.0)


def until(check, seconds):
    """What `check` returns once it is true and raises nothing; the last of it after so many seconds, or False."""
    deadline = time.monotonic() + seconds
    while True:
        found = False
        with contextlib.suppress(OSError, Refused):
            found = check()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


class Link:
    """A connection to an instance or a Sentinel, both ends known."""

    def __init__(self, raw, context, name, user, password):
        self.socket = context.wrap_socket(raw, server_hostname=name)
        self.file = self.socket.makefile("rb")
        self.ask("AUTH", user, password)

    def ask(self, *words):
        self.socket.sendall(encoded(words))
        return decoded(self.file)

    def info(self, section):
        return facts(self.ask("INFO", section))


class Group:
    def __init__(self, module):
        self.module = module
        self.params = params = module.params
        self.actions = []
        self.hosts = {host["name"]: host for host in params["hosts"]}
        self.me = self.hosts[params["host"]]
        self.quorum = len(self.hosts) // 2 + 1
        self.context = ssl.create_default_context(cadata=params["authorities"])
        # A chain can be read from a file only; this one is root's, and goes at once.
        path = os.path.join(module.tmpdir, "identity.pem")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(params["identity"] + "\n")
        self.context.load_cert_chain(path)
        os.remove(path)

    def knock(self, host, port):
        return socket.create_connection((host["address"], port), 5)

    def link(self, host, port, raw=None):
        raw = raw or self.knock(host, port)
        return Link(raw, self.context, host["name"], self.params["user"], self.params["password"])

    def did(self, action):
        """Note what is done; whether it is to be done."""
        self.actions.append(action)
        return not self.module.check_mode

    def fail(self, message):
        self.module.fail_json(msg=message, actions=self.actions)

    # -- The first start ----------------------------------------------------------------------------------------------

    def path(self, name):
        return os.path.join(self.params["directory"], f"{name}.conf")

    def seed(self):
        names = [instance["name"] for instance in self.params["instances"]]
        missing = [name for name in [*names, "sentinel"] if not os.path.exists(self.path(name))]
        if not missing:
            return
        told = self.told_of_another(names, missing)
        masters = {}
        for name in names:
            mine = None
            if name not in missing:
                with open(self.path(name)) as file:
                    mine = master_of(file.read(), self.me["address"])
            masters[name] = chosen(told[name], mine, self.params["hosts"], self.me["address"])
        lines = {"sentinel": ""}
        for instance in self.params["instances"]:
            name, port, master = instance["name"], instance["port"], masters[instance["name"]]
            lines[name] = "" if master == self.me["address"] else f"replicaof {master} {port}\n"
            lines["sentinel"] += f"sentinel monitor {name} {master} {port} {self.quorum}\n"
        for name in missing:
            if self.did(f"seed {self.path(name)}"):
                self.write(self.path(name), HEADER + lines[name])

    def told_of_another(self, names, missing):
        """The same as `told`, once nobody takes this host for the master of what it has lost.

        It would follow a host that follows it, and nobody could take over: the others have been without a master for
        too long then, in Sentinel's eyes.
        """
        told = {}

        def lost():
            return [name for name in names if name in missing and told[name] and told[name][0] == self.me["address"]]

        def moved():
            told.update(self.told(names))
            return not lost()

        patience = 0 if self.module.check_mode else FAILOVER_SECONDS
        if not until(moved, patience) and patience:
            self.fail(
                f"This host has lost what it had of {', '.join(lost())}, and is still taken for the master: most "
                "Sentinels are away, so that no other host can take over. Start them, and deploy again."
            )
        return told

    def told(self, names):
        """By instance, the address and port of its master as the other hosts' Sentinels say, or None."""
        words = {name: [] for name in names}
        for host in self.hosts.values():
            if host == self.me:
                continue
            try:
                raw = self.knock(host, self.params["sentinel_port"])
            except OSError:
                continue  # There is none yet, or no more.
            try:
                link = self.link(host, self.params["sentinel_port"], raw)
                known = {master["name"]: master for master in map(pairs, link.ask("SENTINEL", "MASTERS"))}
            except (OSError, Refused) as problem:
                # Whoever is there and knows must be heard, or there could be two masters.
                self.fail(f"The Sentinel of {host['name']} does not say who is master: {problem}")
            for name in known.keys() & words.keys():
                words[name].append((int(known[name]["config-epoch"]), known[name]["ip"], known[name]["port"]))
        return {name: newest(found) for name, found in words.items()}

    def write(self, path, text):
        beside = f"{path}.{os.getpid()}.quintet"
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w") as file:
            user = pwd.getpwnam("redis")
            file.write(text)
            os.fchown(file.fileno(), user.pw_uid, user.pw_gid)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)

    # -- While it runs ------------------------------------------------------------------------------------------------

    def settle(self):
        sentinel = self.link(self.me, self.params["sentinel_port"])
        for instance in self.params["instances"]:
            own, unit = self.link(self.me, instance["port"]), f"redis-server@{instance['name']}.service"
            running = pairs(own.ask("CONFIG", "GET", "*"))
            self.reload(instance, own)
            self.set(instance, own, running)
            quorum = pairs(sentinel.ask("SENTINEL", "MASTER", instance["name"]))["quorum"]
            if int(quorum) != self.quorum and self.did(f"set quorum of {instance['name']}"):
                sentinel.ask("SENTINEL", "SET", instance["name"], "quorum", self.quorum)
            changed = changed_at(self.params["restart_after"]) > self.begun_at(unit)
            if (changed or running[TITLE] != instance["title"]) and self.did(f"restart {unit}"):
                self.restart(instance)

    def set(self, instance, own, running):
        """Bring what may change while it runs to what is wanted."""
        wanted = {name: str(value) for name, value in instance["settings"].items()}
        wanted["masterauth"] = self.params["masterauth"]
        differ = sorted(name for name, value in wanted.items() if running.get(name) != value)
        if differ and self.did(f"set {', '.join(differ)} of {instance['name']}"):
            own.ask("CONFIG", "SET", *(word for name in differ for word in (name, wanted[name])))

    def reload(self, instance, own):
        """Have it read users and certificates that are younger than what it has read, and systemd its limits."""
        files = self.params["certificate_files"]
        unit = f"redis-server@{instance['name']}.service"
        marker = os.path.join(RELOADS, unit)
        read_at = self.begun_at(unit)
        if os.path.exists(marker):
            read_at = max(read_at, os.stat(marker).st_mtime)

        def changed(*paths):
            return max(os.stat(path).st_mtime for path in paths) > read_at

        # A process keeps the limits with which it began, whatever systemd reads later.
        limits = changed(f"/etc/systemd/system/{unit}.d/limits.conf") or self.limit(unit) != instance["memory_max_mb"]
        contents = changed(self.params["users_file"], *files.values())
        if limits and self.did(f"limit {unit}"):
            self.systemctl("set-property", "--runtime", unit, f"MemoryMax={instance['memory_max_mb']}M")
        if contents and self.did(f"reload users and certificates of {instance['name']}"):
            own.ask("ACL", "LOAD")
            own.ask("CONFIG", "SET", *(word for pair in files.items() for word in pair))
        if (limits or contents) and not self.module.check_mode:
            os.makedirs(RELOADS, exist_ok=True)
            with open(marker, "w"):
                pass

    def limit(self, unit):
        """The limit of a unit's memory in MiB as systemd has it, which may be of an earlier call; 0 for none."""
        shown = self.systemctl("show", "--value", "--property=MemoryMax", unit).strip()
        return int(shown) // 2**20 if shown.isdigit() else 0

    def begun_at(self, unit):
        """When a unit's process began, seconds since the epoch; Redis itself counts in whole seconds."""
        words = ["--timestamp=us+utc", "--property=ExecMainStartTimestamp", "--value", unit]
        shown = self.systemctl("show", *words).strip()
        return datetime.strptime(shown, "%a %Y-%m-%d %H:%M:%S.%f %Z").replace(tzinfo=UTC).timestamp()

    def systemctl(self, *arguments):
        code, out, err = self.module.run_command(["systemctl", *arguments])
        if code:
            self.fail(f"systemctl {' '.join(arguments)}: {err.strip()}")
        return out

    def state(self, name, instance):
        """Place, role, and whether it runs what is wanted, of a host of the group."""
        place = list(self.hosts).index(name)
        try:
            link = self.link(self.hosts[name], instance["port"])
            title = pairs(link.ask("CONFIG", "GET", TITLE))[TITLE]
            return place, link.info("replication")["role"], title == instance["title"]
        except (OSError, Refused):
            return place, None, False

    def restart(self, instance):
        """One after the other, so that two serve at any time; the master last, when it is master no more."""
        me, port = self.me["name"], instance["port"]
        others = [name for name in self.params["together"] if name != me]

        def turn():
            place, role, _ = self.state(me, instance)
            return may_restart(place, role, [self.state(name, instance) for name in others])

        until(turn, self.params["patience"])
        until(lambda: self.others_are_whole(instance), 30)
        if self.link(self.me, port).info("replication")["role"] == "master":
            self.hand_over(instance, self.me)
        unit = f"redis-server@{instance['name']}.service"
        self.systemctl("stop", unit)
        # All else that it wrote is a copy of what it was given, and would outlive it there.
        with open(self.path(instance["name"])) as file:
            text = file.read()
        self.write(self.path(instance["name"]), HEADER + remembered(text))
        self.systemctl("start", unit)

        def whole():
            place_role_done = self.state(me, instance)
            info = self.link(self.me, port).info("replication")
            return place_role_done[2] and info.get("master_link_status", "up") == "up"

        if not until(whole, 60):
            self.fail(f"{unit} was restarted, and does not follow a master with the settings that are wanted.")

    def others_are_whole(self, instance):
        """Whether the group can do without this host: the master has another replica, or one that can take over."""
        info = self.link(self.me, instance["port"]).info("replication")
        needed = 1
        if info["role"] != "master":
            by_address = {host["address"]: host for host in self.hosts.values()}
            info = self.link(by_address[info["master_host"]], instance["port"]).info("replication")
            needed = min(2, len(self.hosts) - 1)
        return int(info["min_slaves_good_slaves"]) >= needed

    # -- Another master -----------------------------------------------------------------------------------------------

    def master(self, instance):
        """The host that is master of an instance, as Sentinel says."""
        sentinel = self.link(self.me, self.params["sentinel_port"])
        address = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", instance["name"])[0]
        return {host["address"]: host for host in self.hosts.values()}[address]

    def whole(self, instance):
        """Whether all other hosts follow it."""
        info = self.link(self.master(instance), instance["port"]).info("replication")
        return info["role"] == "master" and int(info["min_slaves_good_slaves"]) == len(self.hosts) - 1

    def move(self, instance):
        """Let `next_master`, or else any other, be master of an instance; gives the names of who was, and who is."""
        name, wanted, before = instance["name"], self.params["next_master"], self.master(instance)
        if before["name"] == wanted:
            return [wanted, wanted]
        if not until(lambda: self.whole(instance), 30):
            self.fail(f"Not every host follows {before['name']}, the master of {name}: nothing was handed over.")
        if self.module.check_mode:
            self.did(f"hand over {name}")
            return [before["name"], wanted or "another"]
        others = [host for host in self.hosts.values() if wanted and host["name"] not in (wanted, before["name"])]
        with self.kept_out(instance, others):
            self.hand_over(instance, before)
        after = self.master(instance)
        if after == before:
            self.fail(f"Nobody could take over {name} from {before['name']}. The journal of Sentinel says why.")
        if not until(lambda: self.whole(instance), 60):
            self.fail(f"{after['name']} is master of {name} now, and not every host follows it.")
        return [before["name"], after["name"]]

    @contextlib.contextmanager
    def kept_out(self, instance, hosts):
        """While these do not take over. If this run is killed here, the next deploy ends it."""

        def known():
            """Sentinel asks every ten seconds."""
            told = self.link(self.me, self.params["sentinel_port"]).ask("SENTINEL", "REPLICAS", instance["name"])
            found = {one["ip"]: one["slave-priority"] for one in map(pairs, told)}
            return all(found[host["address"]] == NEVER for host in hosts)

        try:
            for host in hosts:
                self.link(host, instance["port"]).ask("CONFIG", "SET", "replica-priority", NEVER)
            if not until(known, 30):
                self.fail(f"Sentinel does not see who is to be master of {instance['name']}: nothing was handed over.")
            yield
        finally:
            for host in hosts:
                self.link(host, instance["port"]).ask("CONFIG", "SET", "replica-priority", USUAL)

    def hand_over(self, instance, master):
        """Let a replica take over with all that was acknowledged. Where there is none, the master stays."""
        name, address = instance["name"], master["address"]
        own = self.link(master, instance["port"])
        sentinel = self.link(self.me, self.params["sentinel_port"])

        def caught_up():
            written, acknowledged = offsets(own.info("replication"))
            return acknowledged and min(acknowledged) >= written

        def begun():
            # A forced failover alone would lose what the old master acknowledges while the new one begins.
            own.ask("CLIENT", "PAUSE", PAUSE * 1000, "WRITE")
            if until(caught_up, 3):
                with contextlib.suppress(Refused):
                    sentinel.ask("SENTINEL", "FAILOVER", name)
                    return True
            own.ask("CLIENT", "UNPAUSE")
            time.sleep(1)
            return False

        def moved():
            found = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
            return found if found[0] != address else None

        if not until(begun, 20):
            return
        self.actions.append(f"hand over {name}")
        master = until(moved, PAUSE - 3)
        if not master:
            own.ask("CLIENT", "UNPAUSE")
            self.fail(f"No other host became master of {name}; it stays as it is. The journal of Sentinel says why.")
        own.ask("REPLICAOF", *master)
        own.ask("CONFIG", "REWRITE")


def main():
    # Ansible would log the call on the host, with what is secret in a longer text, and overrules its own `no_log`.
    AnsibleModule.log = lambda *_, **__: None
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "state": {"type": "str", "choices": ["seeded", "settled", "handed_over"], "default": "seeded"},
            "host": {"type": "str", "required": True},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                },
            },
            "together": {"type": "list", "elements": "str", "default": []},
            "instances": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "port": {"type": "int", "required": True},
                    "title": {"type": "str", "required": True},
                    "settings": {"type": "dict", "default": {}},
                    "memory_max_mb": {"type": "int", "required": True},
                },
            },
            "masterauth": {"type": "str", "required": True, "no_log": True},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "identity": {"type": "str", "required": True, "no_log": True},
            "authorities": {"type": "str", "required": True},
            "sentinel_port": {"type": "int", "required": True},
            "directory": {"type": "path", "required": True},
            "users_file": {"type": "path", "required": True},
            "certificate_files": {"type": "dict", "required": True},
            "restart_after": {"type": "list", "elements": "path", "default": []},
            "patience": {"type": "int", "default": 60},
            "next_master": {"type": "str", "default": ""},
        },
    )
    group, found = Group(module), {}
    try:
        if module.params["state"] == "handed_over":
            found["masters"] = {one["name"]: group.move(one) for one in module.params["instances"]}
        elif module.params["state"] == "seeded":
            group.seed()
        else:
            group.settle()
    except (OSError, Refused) as problem:
        # What was never set up cannot be asked what it would change.
        if not module.check_mode:
            group.fail(f"Redis of {module.params['host']}: {problem}")
        group.did("settle what does not run yet")
    module.exit_json(changed=bool(group.actions), actions=group.actions, **found)


if __name__ == "__main__":
    main()
