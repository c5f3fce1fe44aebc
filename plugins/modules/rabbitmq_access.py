#!/usr/bin/python
"""Users, vhosts, permissions and tags of a RabbitMQ broker, with rabbitmqctl."""

DOCUMENTATION = r"""
module: rabbitmq_access
short_description: Users, vhosts, permissions and tags of a broker
description:
  - Reads the whole state once (C(rabbitmqctl export_definitions)), compares, and writes only the difference.
  - Converges a broker that is not empty. A changed password, permission or tag reaches it, in place.
  - A declared user has exactly the declared permissions and tags. What is not declared is left alone.
  - Passwords reach C(rabbitmqctl) on standard input, never in its arguments.
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
commands:
  description: The rabbitmqctl commands that made the difference, without secrets.
  type: list
  returned: always
"""

import base64
import hashlib
import hmac
import json

from ansible.module_utils.basic import AnsibleModule

HASHES = {"rabbit_password_hashing_sha256": hashlib.sha256, "rabbit_password_hashing_sha512": hashlib.sha512}
RIGHTS = ("configure", "write", "read")


def password_matches(password, password_hash, algorithm):
    """Whether a user of the broker has this password; its hash is base64 of salt (4 bytes) + hash(salt + password)."""
    if algorithm not in HASHES or not password_hash:
        return False
    salted = base64.b64decode(password_hash)
    return hmac.compare_digest(salted[4:], HASHES[algorithm](salted[:4] + password.encode()).digest())


def observed(definitions):
    """The part of the broker's definitions that this module answers for, by name."""
    users = {}
    for user in definitions["users"]:
        tags = user["tags"].split(",") if isinstance(user["tags"], str) else user["tags"]
        users[user["name"]] = {
            "tags": sorted(tag for tag in tags if tag),
            "permissions": {},
            "password": (user.get("password_hash"), user.get("hashing_algorithm")),
        }
    for grant in definitions["permissions"]:
        users[grant["user"]]["permissions"][grant["vhost"]] = tuple(grant[right] for right in RIGHTS)
    vhosts = {}
    for vhost in definitions["vhosts"]:
        kind = vhost.get("default_queue_type") or vhost.get("metadata", {}).get("default_queue_type")
        vhosts[vhost["name"]] = kind if kind and kind != "undefined" else "classic"
    return users, vhosts


def difference(users, vhosts, wanted_users, wanted_vhosts):
    """The commands, as (arguments, standard input or None), that lead from what is observed to what is wanted.

    Vhosts are made before the users that need them, and go after them.
    """
    commands = []
    for vhost in wanted_vhosts:
        name, kind = vhost["name"], vhost["default_queue_type"]
        if vhost["state"] == "absent":
            continue
        if name not in vhosts:
            commands.append((["add_vhost", name, "--default-queue-type", kind], None))
        elif vhosts[name] != kind:
            commands.append((["update_vhost_metadata", name, "--default-queue-type", kind], None))
    for user in wanted_users:
        name, found = user["name"], users.get(user["name"])
        if user["state"] == "absent":
            if found:
                commands.append((["delete_user", name], None))
            continue
        if not found:
            commands.append((["add_user", name], user["password"]))
            found = {"tags": [], "permissions": {}}
        elif not password_matches(user["password"], *found["password"]):
            commands.append((["change_password", name], user["password"]))
        if found["tags"] != sorted(user["tags"]):
            commands.append((["set_user_tags", name, *sorted(user["tags"])], None))
        for vhost, grant in user["permissions"].items():
            rights = tuple(grant.get(right, "^$") for right in RIGHTS)
            if found["permissions"].get(vhost) != rights:
                commands.append((["set_permissions", "--vhost", vhost, name, *rights], None))
        for vhost in sorted(found["permissions"].keys() - user["permissions"].keys()):
            commands.append((["clear_permissions", "--vhost", vhost, name], None))
    for vhost in wanted_vhosts:
        if vhost["state"] == "absent" and vhost["name"] in vhosts:
            commands.append((["delete_vhost", vhost["name"]], None))
    return commands


def described(users, vhosts, names):
    """The observed state of the declared names, without password hashes, for the diff."""
    state = {
        "users": {},
        "vhosts": {name: {"default_queue_type": kind} for name, kind in vhosts.items() if name in names},
    }
    for name, user in users.items():
        if name in names:
            grants = {vhost: dict(zip(RIGHTS, grant, strict=True)) for vhost, grant in user["permissions"].items()}
            state["users"][name] = {"tags": user["tags"], "permissions": grants}
    return state


def contradictions(params):
    """What in the declaration cannot be, one sentence each."""
    for kind in ("users", "vhosts"):
        names = [one["name"] for one in params[kind]]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"{kind}: {name} is declared twice"
    for user in params["users"]:
        if user["state"] == "present" and not user["password"]:
            yield f"users: {user['name']} needs a password"
        for vhost, grant in user["permissions"].items():
            for right in sorted(set(grant) - set(RIGHTS)):
                yield f"users: {user['name']} has the permission {right} in {vhost}; there are only {', '.join(RIGHTS)}"


class Broker:
    def __init__(self, module):
        self.module = module

    def rabbitmqctl(self, arguments, secret=None):
        # rabbitmqctl reads a password only where the command and the user's name are its only arguments; with an
        # option more it waits for ever.
        code, out, err = self.module.run_command(["rabbitmqctl", *arguments], data=secret)
        if code:
            self.module.fail_json(msg=f"rabbitmqctl {' '.join(arguments)}: {(err or out).strip()}")
        return out

    def read(self):
        return observed(json.loads(self.rabbitmqctl(["export_definitions", "-", "--format", "json", "--quiet"])))

    def messages(self, vhost):
        rows = json.loads(
            self.rabbitmqctl(["list_queues", "--vhost", vhost, "messages", "--formatter", "json", "--quiet"])
        )
        return sum(row["messages"] for row in rows)


def main():
    state = {"type": "str", "choices": ["present", "absent"], "default": "present"}
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
            "delete_vhosts_with_messages": {"type": "bool", "default": False},
        },
    )
    params, broker = module.params, Broker(module)
    wrong = list(contradictions(params))
    if wrong:
        module.fail_json(msg="; ".join(wrong))

    users, vhosts = broker.read()
    names = {one["name"] for one in params["users"] + params["vhosts"]}
    before = described(users, vhosts, names)
    commands = difference(users, vhosts, params["users"], params["vhosts"])
    if not params["delete_vhosts_with_messages"]:
        for arguments, _ in commands:
            if arguments[0] == "delete_vhost" and broker.messages(arguments[1]):
                module.fail_json(
                    msg=f"vhosts: {arguments[1]} still has messages in its queues. "
                    "To lose them, confirm with -e rabbitmq_delete_vhosts_with_messages=true."
                )
    shown = ["rabbitmqctl " + " ".join(arguments) for arguments, _ in commands]
    if commands and not module.check_mode:
        for arguments, secret in commands:
            broker.rabbitmqctl(arguments, secret)
        after = described(*broker.read(), names) if module._diff else {}
    else:
        after = before
    module.exit_json(
        changed=bool(commands),
        commands=shown,
        diff={"before": before, "after": dict(after, commands=shown)} if commands else {},
    )


if __name__ == "__main__":
    main()
