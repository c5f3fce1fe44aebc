#!/usr/bin/python
"""The settings that the members of a Patroni cluster agree on, and members that run with what they are told."""

DOCUMENTATION = r"""
module: patroni_cluster
short_description: The settings of a Patroni cluster, and restarts that they need, one member after the other
description:
  - Waits until somebody leads, this member runs, and, where a commit waits for another member, there is one.
  - Compares the cluster's settings with those wanted and writes only the difference. What is not declared is left
    alone, but for parameters of PostgreSQL, which are exactly these.
  - Where a setting, of the cluster or of this member, needs a restart of PostgreSQL, the members restart one after the
    other, the leader last. Hosts that do this at the same time take turns, by a lock in etcd.
  - A unit whose process is older than a file that it reads is restarted here, in its turn.
options:
  url: {description: Patroni's API of this member., type: str, required: true}
  settings: {description: "The settings, as in C(bootstrap.dcs).", type: dict, required: true}
  certificate: {description: File with this host's certificate and its key., type: path, required: true}
  authorities: {description: File with the authorities that are trusted., type: path, required: true}
  etcd: {description: URLs of etcd., type: list, elements: str, required: true}
  unit: {description: Patroni's unit., type: str, default: patroni.service}
  restart_after:
    description: Files whose change needs a restart of the unit.
    type: list
    elements: path
    default: []
  reload_after:
    description: Files that the unit was told to read anew. It is given a moment after their change.
    type: list
    elements: path
    default: []
  wait_seconds: {description: "How long the cluster has to become ready, each time.", type: int, default: 180}
author: Quintet
"""

EXAMPLES = r"""
- name: Let more clients in
  patroni_cluster:
    url: https://db1.example:8008
    settings: {postgresql: {parameters: {max_connections: 200}}}
    certificate: /etc/patroni/identity.pem
    authorities: /etc/patroni/authorities.pem
    etcd: [https://db1.example:2379]
"""

RETURN = r"""
actions:
  description: What was done, in order, such as C(restart PostgreSQL of db2).
  type: list
  returned: always
"""

import base64
import contextlib
import json
import os
import ssl
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule

# For so long a host that was interrupted keeps the others from restarting anything.
TURN_SECONDS = 300
RESTART_SECONDS = 120


def difference(found, wanted, exact=None):
    """What must be written over the settings found to get those wanted; None takes one away.

    What is found beyond is left alone, but in the dict at the path `exact`.
    """
    patch = dict.fromkeys(found.keys() - wanted.keys()) if exact == () else {}
    for key, value in wanted.items():
        if isinstance(value, dict):
            inner = difference(found.get(key) or {}, value, exact[1:] if exact and exact[0] == key else None)
            patch.update({key: inner} if inner else {})
        elif key not in found or found[key] != value:
            patch[key] = value
    return patch


def missing(member, cluster, strict):
    """What the cluster still needs before this member can be worked with, as a sentence; empty if nothing."""
    members = cluster.get("members", [])
    if not any(one["role"] == "leader" and one["state"] == "running" for one in members):
        return "Nobody leads."
    if member.get("state") != "running":
        return f"This member's PostgreSQL is {member.get('state', 'not there')}."
    if member.get("role") == "replica" and member.get("replication_state") != "streaming":
        return "This member does not follow the leader."
    if strict and not any(one["role"] in ("sync_standby", "quorum_standby") for one in members):
        return "No other member has what the leader has, so that nothing can be written."
    return ""


def lagging(cluster):
    """The names of members that neither lead nor follow."""
    states = {"leader": "running"}
    return [one["name"] for one in cluster["members"] if one["state"] != states.get(one["role"], "streaming")]


def in_order(cluster):
    """The members as they restart: the leader last."""
    return sorted(cluster["members"], key=lambda one: (one["role"] == "leader", one["name"]))


def changed_at(paths):
    """When the newest of these files changed, seconds since the epoch; a file that is not there did not change."""
    return max((os.lstat(path).st_mtime for path in paths if os.path.lexists(path)), default=0.0)


def started_at(text):
    """Seconds since the epoch of systemctl's `--timestamp=us+utc`; infinity for a unit that does not run."""
    if not text or text == "n/a":
        return float("inf")
    return datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S.%f %Z").replace(tzinfo=UTC).timestamp()


class Refused(OSError):
    """An answer that is no good, with its status."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


class Cluster:
    def __init__(self, module):
        self.module = module
        self.url = module.params["url"]
        self.settings = module.params["settings"]
        self.actions = []
        context = ssl.create_default_context(cafile=module.params["authorities"])
        context.load_cert_chain(module.params["certificate"])
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        self.opener = urllib.request.build_opener(*handlers)

    def ask(self, url, body=None, method=None, timeout=10):
        """The text of an answer. One of a member that does not run (503) is an answer too, where nothing is changed."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with self.opener.open(urllib.request.Request(url, data, method=method), timeout=timeout) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as exc:
            text = exc.read().decode(errors="replace")
            if exc.code == 503 and body is None:
                return text
            raise Refused(f"{url}: {exc.code} {exc.reason}", exc.code) from exc

    def look(self, what):
        return json.loads(self.ask(f"{self.url}/{what}"))

    def fail(self, message):
        command = ["journalctl", "--no-pager", "--lines=20", "--output=cat", f"--unit={self.module.params['unit']}"]
        _, log, _ = self.module.run_command(command)
        self.module.fail_json(msg=f"{message}\n{log.strip()}", actions=self.actions)

    def wait(self, all_members=False):
        """Wait until this member can be worked with, or all of them; gives the cluster as it is then."""
        deadline = time.monotonic() + self.module.params["wait_seconds"]
        while True:
            try:
                cluster = self.look("cluster")
                said = missing(self.look("patroni"), cluster, self.settings.get("synchronous_mode_strict"))
                if not said and all_members and lagging(cluster):
                    said = f"Not following: {', '.join(lagging(cluster))}."
            except (OSError, ValueError) as exc:
                said = f"Patroni does not answer: {exc}"
            if not said:
                return cluster
            if time.monotonic() > deadline:
                self.fail(said)
            time.sleep(0.5)

    def configure(self):
        """Write the difference; gives it with what was found."""
        for _ in range(10):
            found = self.look("config")
            patch = difference(found, self.settings, ("postgresql", "parameters"))
            try:
                if patch and not self.module.check_mode:
                    self.ask(f"{self.url}/config", patch, "PATCH")
                break
            except Refused as exc:
                # Another host has written at the same moment, most likely the same.
                if exc.status != 409:
                    raise
        else:
            self.fail("Others write settings all the time.")
        self.actions += ["write settings"] if patch else []
        return found, patch

    def settle(self, since):
        """Wait until all members have read, and judged, what was written then."""
        until = since + self.settings.get("loop_wait", 10) + 3
        while time.time() < until:
            time.sleep(0.2)

    def outdated(self):
        """Whether the unit's process is older than a file that it reads."""
        command = ["systemctl", "show", "--timestamp=us+utc", "--property=ExecMainStartTimestamp", "--value"]
        _, out, _ = self.module.run_command([*command, self.module.params["unit"]], check_rc=True)
        return changed_at(self.module.params["restart_after"]) > started_at(out.strip())

    def pending(self, url=None):
        return bool(json.loads(self.ask(url or f"{self.url}/patroni")).get("pending_restart"))

    @contextlib.contextmanager
    def turn(self):
        """While nobody else restarts anything: a lock in etcd, which ends by itself if this run does."""
        name = base64.b64encode(f"quintet/{self.look('cluster')['scope']}/restart".encode()).decode()
        for url in self.module.params["etcd"]:
            try:
                lease = json.loads(self.ask(f"{url}/v3/lease/grant", {"TTL": TURN_SECONDS}))["ID"]
                break
            except OSError as exc:
                said = exc
        else:
            self.fail(f"etcd does not answer: {said}")
        try:
            self.ask(f"{url}/v3/lock/lock", {"name": name, "lease": lease}, timeout=2 * TURN_SECONDS)
            yield
        finally:
            with contextlib.suppress(OSError):
                self.ask(f"{url}/v3/lease/revoke", {"ID": lease})

    def restart_members(self):
        """Restart PostgreSQL where it is pending. A member may need it again once the leader's is done."""
        for _ in range(2):
            for member in in_order(self.wait(all_members=True)):
                if self.pending(member["api_url"]):
                    self.actions.append(f"restart PostgreSQL of {member['name']}")
                    url, limit = member["api_url"].rpartition("/")[0], {"timeout": RESTART_SECONDS}
                    self.ask(f"{url}/restart", limit, "POST", timeout=RESTART_SECONDS + 10)
                    self.wait(all_members=True)

    def restart(self):
        with self.turn():
            self.restart_members()
            if self.outdated():
                self.actions.append(f"restart {self.module.params['unit']}")
                self.module.run_command(["systemctl", "restart", self.module.params["unit"]], check_rc=True)
                self.wait(all_members=True)


def bring(cluster):
    """Bring the cluster to its settings; gives those found, and what was written over them."""
    paused = cluster.wait().get("pause")
    found, patch = cluster.configure()
    if not cluster.module.check_mode and not paused:
        cluster.settle(time.time() if patch else changed_at(cluster.module.params["reload_after"]))
        if cluster.pending() or cluster.outdated():
            cluster.restart()
    return found, patch


def main():
    # Ansible would log the call on the host, with what is secret in a longer text, and overrules its own `no_log`.
    AnsibleModule.log = lambda *_, **__: None
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "url": {"type": "str", "required": True},
            "settings": {"type": "dict", "required": True},
            "certificate": {"type": "path", "required": True},
            "authorities": {"type": "path", "required": True},
            "etcd": {"type": "list", "elements": "str", "required": True},
            "unit": {"type": "str", "default": "patroni.service"},
            "restart_after": {"type": "list", "elements": "path", "default": []},
            "reload_after": {"type": "list", "elements": "path", "default": []},
            "wait_seconds": {"type": "int", "default": 180},
        },
    )
    if module.check_mode and not os.path.exists(module.params["certificate"]):
        module.exit_json(changed=True, actions=["make the cluster"])
    cluster = Cluster(module)
    try:
        found, patch = bring(cluster)
    except OSError as exc:
        cluster.fail(str(exc))
    diff = {"before": found, "after": patch} if patch else {}
    module.exit_json(changed=bool(cluster.actions), actions=cluster.actions, diff=diff)


if __name__ == "__main__":
    main()
