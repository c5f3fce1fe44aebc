#!/usr/bin/python
"""Users, vhosts, permissions, tags and feature flags of a RabbitMQ broker, with rabbitmqctl."""

DOCUMENTATION = r"""
module: rabbitmq_access
short_description: Users, vhosts, permissions, tags and feature flags of a broker
description:
  - Reads the whole state once (C(rabbitmqctl export_definitions)), compares, and writes only the difference, in one
    call (C(rabbitmqctl import_definitions)); what goes, goes by a command of its own.
  - Converges a broker that is not empty. A changed password, permission or tag reaches it, in place.
  - A declared user has exactly the declared permissions and tags. What is not declared is left alone.
  - Passwords reach C(rabbitmqctl) as salted hashes on standard input, never in its arguments.
  - Runs as the user C(rabbitmq). As root, Debian's C(rabbitmqctl) hands its arguments to a shell, which expands them.
options:
  vhosts:
    description: The vhosts.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      default_queue_type:
        description: Type of a queue that is declared without one.
        type: str
        choices: [classic, quorum, stream]
        default: quorum
      dead_letter_queue:
        description:
          - Queue, with an exchange of its name, that keeps what the vhost's quorum queues delivered too often, or what
            a consumer refused. Empty for none.
        type: str
        default: ""
      delivery_limit:
        description: How often a message that comes back is delivered again before it is a dead letter.
        type: int
        default: 5
      state: {description: Whether it is there., type: str, choices: [present, absent], default: present}
  users:
    description: The users.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      password: {description: Password; required for a user that is present., type: str}
      tags: {description: Exactly these tags., type: list, elements: str, default: []}
      permissions:
        description:
          - By vhost, the regular expressions C(configure), C(write) and C(read). One left out permits nothing.
        type: dict
        default: {}
      state: {description: Whether it is there., type: str, choices: [present, absent], default: present}
  nodes:
    description: How many nodes the cluster has. Nothing is written before they are all there.
    type: int
    default: 1
  feature_flags:
    description:
      - Feature flags that are enabled, also where RabbitMQ leaves that to its operator (C(--experimental)). None can be
        disabled again.
    type: list
    elements: str
    default: []
  feature_flags_file:
    description: Where this node keeps which are enabled, as Erlang's list of names; to ask the node takes seconds.
    type: str
  delete_vhosts_with_messages:
    description: Confirms that a vhost may go with the messages that are in its queues.
    type: bool
    default: false
author: Quintet
"""

EXAMPLES = r"""
- name: Give the application its vhost
  rabbitmq_access:
    vhosts:
      - name: rabbit
    users:
      - name: django
        password: "{{ broker_password }}"
        tags: [management]
        permissions:
          rabbit: {configure: ".*", write: ".*", read: ".*"}
      - name: guest
        state: absent
"""

RETURN = r"""
changes:
  description: What made the difference, without secrets.
  type: list
  returned: always
commands:
  description: >-
    The C(rabbitmqctl) commands that would have made it by hand, for users, vhosts and permissions. They ask for
    passwords.
  type: list
  returned: always
"""

import base64
import hashlib
import hmac
import json
import os
import re
import shlex
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

HASHES = {"rabbit_password_hashing_sha256": hashlib.sha256, "rabbit_password_hashing_sha512": hashlib.sha512}
RIGHTS = ("configure", "write", "read")
# The name of the policy with the limit of deliveries.
POLICY = "dead-letters"
# What tells one definition from another of its kind.
KEYS = {
    "vhosts": ("name",),
    "users": ("name",),
    "permissions": ("vhost", "user"),
    "exchanges": ("vhost", "name"),
    "queues": ("vhost", "name"),
    "bindings": ("vhost", "source", "destination"),
    "policies": ("vhost", "name"),
}
# What cannot be changed where it exists.
LASTING = ("exchanges", "queues", "bindings")


def password_matches(password, password_hash, algorithm):
    """Whether a user of the broker has this password; its hash is base64 of salt (4 bytes) + hash(salt + password)."""
    if algorithm not in HASHES or not password_hash:
        return False
    salted = base64.b64decode(password_hash)
    return hmac.compare_digest(salted[4:], HASHES[algorithm](salted[:4] + password.encode()).digest())


def password_hash(password):
    """A new hash of the password, as the broker makes it."""
    salt = os.urandom(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def observed(definitions):
    """The broker's definitions by kind and key, each in the form in which it is declared."""
    found = {kind: {key(kind, one): one for one in definitions.get(kind, [])} for kind in KEYS}
    for user in found["users"].values():
        tags = user["tags"].split(",") if isinstance(user["tags"], str) else user["tags"]
        user["tags"] = sorted(tag for tag in tags if tag)
    for vhost in found["vhosts"].values():
        kind = vhost.get("default_queue_type") or vhost.get("metadata", {}).get("default_queue_type")
        vhost["default_queue_type"] = kind if kind and kind != "undefined" else "classic"
    return found


def key(kind, one):
    """What tells this definition from others of its kind."""
    return tuple(one[name] for name in KEYS[kind])


def declared(users, vhosts):
    """The definitions that are wanted, by kind, in the form of RabbitMQ's definition files. Users have a `password`."""
    wanted = {kind: [] for kind in KEYS}
    for vhost in vhosts:
        if vhost["state"] == "present":
            name, kind = vhost["name"], vhost["default_queue_type"]
            wanted["vhosts"].append({"name": name, "default_queue_type": kind})
            if vhost["dead_letter_queue"]:
                for kind, one in dead_letters(vhost["dead_letter_queue"], vhost["delivery_limit"]).items():
                    wanted[kind].append({"vhost": name, **one})
    for user in users:
        if user["state"] == "present":
            wanted["users"].append({"name": user["name"], "password": user["password"], "tags": sorted(user["tags"])})
            for vhost, grant in user["permissions"].items():
                rights = {right: grant.get(right, "^$") for right in RIGHTS}
                wanted["permissions"].append({"user": user["name"], "vhost": vhost, **rights})
    return wanted


def dead_letters(name, limit):
    """A queue for messages that were delivered too often or refused, and the policy that sends them there, safely.

    Celery's own queues for delayed tasks have dead letters for another purpose.
    """
    return {
        "exchanges": {"name": name, "type": "fanout", "durable": True, "auto_delete": False, "arguments": {}},
        "queues": {"name": name, "durable": True, "auto_delete": False, "arguments": {"x-queue-type": "quorum"}},
        "bindings": {
            "source": name,
            "destination": name,
            "destination_type": "queue",
            "routing_key": "",
            "arguments": {},
        },
        "policies": {
            "name": POLICY,
            "pattern": f"^(?!celery_delayed_|{name}$)",
            "apply-to": "quorum_queues",
            "priority": 0,
            "definition": {
                "delivery-limit": limit,
                "dead-letter-exchange": name,
                "dead-letter-strategy": "at-least-once",
                "overflow": "reject-publish",
            },
        },
    }


def missing(found, wanted):
    """What of the wanted definitions the broker lacks or has otherwise, by kind, with the fields that differ."""
    lacks = {}
    for kind, ones in wanted.items():
        for one in ones:
            there = found[kind].get(key(kind, one))
            if there is None:
                lacks.setdefault(kind, []).append((one, []))
            elif kind not in LASTING and (fields := [name for name in one if not same(name, there, one)]):
                lacks.setdefault(kind, []).append((one, fields))
    return lacks


def same(field, there, one):
    """Whether a field of a definition is as wanted."""
    if field == "password":
        return password_matches(one["password"], there.get("password_hash"), there.get("hashing_algorithm"))
    return there.get(field) == one[field]


def document(lacks):
    """A definitions file of what the broker lacks. Passwords are in it as hashes only."""
    content = {kind: [dict(one) for one, _ in ones] for kind, ones in lacks.items()}
    for user in content.get("users", []):
        user |= {
            "password_hash": password_hash(user.pop("password")),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
        }
    for vhost in content.get("vhosts", []):
        vhost["metadata"] = {"default_queue_type": vhost["default_queue_type"]}
    return json.dumps(content)


def surplus(found, wanted, users, vhosts):
    """The rabbitmqctl commands that remove what is declared absent, and what a declared user has beyond it."""
    names = {one["name"] for one in wanted["users"]}
    grants = {key("permissions", one) for one in wanted["permissions"]}
    policies = {key("policies", one) for one in wanted["policies"]}
    for vhost, name in found["policies"]:
        if (
            name == POLICY
            and (vhost,) in {key("vhosts", one) for one in wanted["vhosts"]}
            and (vhost, name) not in policies
        ):
            yield ["clear_policy", "--vhost", vhost, name]
    for user in users:
        if user["state"] == "absent" and (user["name"],) in found["users"]:
            yield ["delete_user", user["name"]]
    for vhost, user in sorted(found["permissions"]):
        if user in names and (vhost, user) not in grants:
            yield ["clear_permissions", "--vhost", vhost, user]
    for vhost in vhosts:
        if vhost["state"] == "absent" and (vhost["name"],) in found["vhosts"]:
            yield ["delete_vhost", vhost["name"]]


def disabled(flags, file):
    """The rabbitmqctl commands that enable what of these feature flags this node's file does not name."""
    enabled = re.findall(r"[\w.]+", Path(file).read_text()) if flags else []
    return [["enable_feature_flag", "--experimental", flag] for flag in flags if flag not in enabled]


def told(lacks, commands):
    """The changes in words, without secrets: what is imported, and the commands."""
    for kind, ones in lacks.items():
        for one, fields in ones:
            yield f"{kind}: {' '.join(key(kind, one))}" + (f" ({', '.join(fields)})" if fields else "")
    for arguments in commands:
        yield "rabbitmqctl " + " ".join(arguments)


def by_hand(lacks, found):
    """The rabbitmqctl commands that do the same as the import for users, vhosts and permissions, in their order."""
    for vhost, _ in lacks.get("vhosts", []):
        verb = "update_vhost_metadata" if (vhost["name"],) in found["vhosts"] else "add_vhost"
        yield [verb, vhost["name"], "--default-queue-type", vhost["default_queue_type"]]
    for user, fields in lacks.get("users", []):
        if not fields:
            yield ["add_user", user["name"]]
        elif "password" in fields:
            yield ["change_password", user["name"]]
    for one, _ in lacks.get("permissions", []):
        yield ["set_permissions", "-p", one["vhost"], one["user"], *(one[right] for right in RIGHTS)]
    for user, fields in lacks.get("users", []):
        if "tags" in fields or (user["tags"] and not fields):
            yield ["set_user_tags", user["name"], *user["tags"]]


def described(found, names):
    """The observed state of the declared users and vhosts, without password hashes, for the diff."""
    return {
        "users": {user["name"]: {"tags": user["tags"]} for user in found["users"].values() if user["name"] in names},
        "permissions": {
            f"{user} in {vhost}": {right: one[right] for right in RIGHTS}
            for (vhost, user), one in found["permissions"].items()
            if user in names
        },
        "vhosts": {
            vhost["name"]: {"default_queue_type": vhost["default_queue_type"]}
            for vhost in found["vhosts"].values()
            if vhost["name"] in names
        },
        "policies": {
            f"{name} in {vhost}": one["definition"]
            for (vhost, name), one in found["policies"].items()
            if vhost in names and name == POLICY
        },
    }


def contradictions(params):
    """What in the declaration cannot be, one sentence each."""
    for kind in ("users", "vhosts"):
        names = [one["name"] for one in params[kind]]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{kind}: {name} is declared twice"
    if params["feature_flags"] and not params["feature_flags_file"]:
        yield "feature_flags: feature_flags_file says which are enabled, and is missing"
    for user in params["users"]:
        if user["state"] == "present" and not user["password"]:
            yield f"users: {user['name']} needs a password"
        for vhost, grant in user["permissions"].items():
            for right in sorted(set(grant) - set(RIGHTS)):
                yield f"users: {user['name']} has the permission {right} in {vhost}; there are only {', '.join(RIGHTS)}"


def astray(found, params):
    """Which permissions are declared in a vhost that is not there and is not declared, one sentence each."""
    absent = {vhost["name"] for vhost in params["vhosts"] if vhost["state"] == "absent"}
    present = {vhost["name"] for vhost in params["vhosts"]} | {name for (name,) in found["vhosts"]}
    for user in params["users"]:
        for vhost in user["permissions"]:
            if user["state"] == "present" and vhost not in present - absent:
                yield f"users: {user['name']} has permissions in {vhost}, which is no vhost; declare it in vhosts"


class Broker:
    def __init__(self, module):
        self.module = module

    def rabbitmqctl(self, arguments, data=None):
        code, out, err = self.module.run_command(["rabbitmqctl", *arguments], data=data)
        if code:
            self.module.fail_json(msg=f"rabbitmqctl {' '.join(arguments)}: {(err or out).strip()}")
        return out

    def read(self):
        return observed(json.loads(self.rabbitmqctl(["export_definitions", "-", "--format", "json", "--quiet"])))

    def write(self, definitions):
        # Named as a file: rabbitmqctl closes its standard input for commands that it does not expect to read it.
        self.rabbitmqctl(["import_definitions", "/dev/stdin", "--format", "json", "--quiet"], definitions)

    def messages(self, vhost):
        rows = json.loads(
            self.rabbitmqctl(["list_queues", "--vhost", vhost, "messages", "--formatter", "json", "--quiet"])
        )
        return sum(row["messages"] for row in rows)


def main():
    state = {"type": "str", "choices": ["present", "absent"], "default": "present"}
    # Ansible would log the call on the host, with what is secret in a longer text, and overrules its own `no_log`.
    AnsibleModule.log = lambda *_, **__: None
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "vhosts": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "default_queue_type": {
                        "type": "str",
                        "choices": ["classic", "quorum", "stream"],
                        "default": "quorum",
                    },
                    "dead_letter_queue": {"type": "str", "default": ""},
                    "delivery_limit": {"type": "int", "default": 5},
                    "state": state,
                },
            },
            "users": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "password": {"type": "str", "no_log": True},
                    "tags": {"type": "list", "elements": "str", "default": []},
                    "permissions": {"type": "dict", "default": {}},
                    "state": state,
                },
            },
            "nodes": {"type": "int", "default": 1},
            "feature_flags": {"type": "list", "elements": "str", "default": []},
            "feature_flags_file": {"type": "str"},
            "delete_vhosts_with_messages": {"type": "bool", "default": False},
        },
    )
    params, broker = module.params, Broker(module)
    wrong = list(contradictions(params))
    if wrong:
        module.fail_json(msg="; ".join(wrong))

    if params["nodes"] > 1:
        broker.rabbitmqctl(["await_online_nodes", str(params["nodes"]), "--timeout", "120"])
    found, wanted = broker.read(), declared(params["users"], params["vhosts"])
    wrong = list(astray(found, params))
    if wrong:
        module.fail_json(msg="; ".join(wrong))
    names = {one["name"] for one in params["users"] + params["vhosts"]}
    before = described(found, names)
    lacks, commands = missing(found, wanted), list(surplus(found, wanted, params["users"], params["vhosts"]))
    commands = disabled(params["feature_flags"], params["feature_flags_file"]) + commands
    if not params["delete_vhosts_with_messages"]:
        for arguments in commands:
            if arguments[0] == "delete_vhost" and broker.messages(arguments[1]):
                module.fail_json(
                    msg=f"vhosts: {arguments[1]} still has messages in its queues. "
                    "To lose them, confirm with -e rabbitmq_delete_vhosts_with_messages=true."
                )
    after, changes = before, list(told(lacks, commands))
    if changes and not module.check_mode:
        if lacks:
            broker.write(document(lacks))
        for arguments in commands:
            broker.rabbitmqctl(arguments)
        after = described(broker.read(), names) if module._diff else {}
    module.exit_json(
        changed=bool(changes),
        changes=changes,
        commands=[shlex.join(["rabbitmqctl", *words]) for words in [*by_hand(lacks, found), *commands]],
        diff={"before": before, "after": dict(after, changes=changes)} if changes else {},
    )


if __name__ == "__main__":
    main()
