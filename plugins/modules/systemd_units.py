#!/usr/bin/python
"""Files, and the systemd units that read them, brought to where they are wanted in one call."""

DOCUMENTATION = r"""
module: systemd_units
short_description: Files as wanted, and units enabled, running, and running what their files say
description:
  - Writes the files that differ, each by a rename, then enables and starts the units, all at the same time. Which of
    them waits for which is said by the units themselves.
  - A unit whose process is older than a file that it reads is restarted, or reloaded. That is decided from the state of
    the host, not from what this run happened to change, so that a deploy killed between writing a file and restarting
    its reader is put right by the next one. A handler forgets.
  - A unit that does not start is started once more, if systemd would do so by itself (C(Restart)). What it lacked may
    be there by then, as for a node of RabbitMQ that has just joined the others.
  - A unit that is starting is waited for, whoever has begun it; a run that was killed, for example.
  - Whoever wants a unit to stay stopped puts a file of its name into C(/etc/quintet/paused). Until that is gone it is
    disabled, whatever C(enabled) says, with a warning.
  - One call does what would be two tasks a file and one a unit, and each task costs a third of a second.
options:
  files:
    description: The files. Directories that are missing above one are made. Exactly one of C(content), C(secret),
      C(copy), C(link) and C(absent) says what it is.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where., type: path, required: true}
      content: {description: Its text., type: str}
      secret: {description: Its text, which is not shown in diffs or logs., type: str}
      copy: {description: "Path of another on this host, which it equals, also in owner and mode.", type: path}
      link: {description: The target of a symbolic link., type: str}
      absent: {description: Not there., type: bool, choices: [true]}
      owner: {description: Owner., type: str, default: root}
      group: {description: Group., type: str, default: root}
      mode: {description: Permissions, octal., type: str, default: "0644"}
      accept:
        description: >-
          A command that must take the new file, whose path is its last word, for good. Else nothing is changed, and the
          call fails with what the command says.
        type: list
        elements: str
        default: []
  units:
    description: The units.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name with suffix., type: str, required: true}
      enabled: {description: Started at boot and now; or neither., type: bool, default: true}
      restart_after:
        description: Files whose change needs a restart. A symbolic link counts itself.
        type: list
        elements: path
        default: []
      reload_after:
        description: Files whose change needs a reload.
        type: list
        elements: path
        default: []
      before_restart:
        description: >-
          A command that must succeed before the unit is restarted. It may wait, until the other members of a cluster
          can do without this one.
        type: list
        elements: str
        default: []
  owner:
    description: >-
      Who wants these units. Unit files in /etc/systemd/system with the line C(X-Quintet=) and this name that are not
      among C(files) are nobody's any more: last of all, what they run is stopped, and they are removed.
    type: str
  one_at_a_time:
    description: >-
      A name, such as a cluster's. Of the hosts that give the same, one after the other restarts what it must; who comes
      next waits until the units of the one before are up. What does not run is started at once.
    type: str
    default: ""
  restart:
    description: Whether units may be restarted now. If not, and one must be, the answer has C(waits).
    type: bool
    default: true
author: Quintet
"""

EXAMPLES = r"""
- name: Run nginx with this site
  systemd_units:
    files:
      - path: /etc/nginx/conf.d/site.conf
        content: "{{ lookup('rendered', 'site.conf.j2') }}"
    units:
      - name: nginx.service
        reload_after: [/etc/nginx/conf.d/site.conf]
"""

RETURN = r"""
actions:
  description: What was done, in order, such as C(write /etc/nginx/conf.d/site.conf) or C(restart nginx.service).
  type: list
  returned: always
waits:
  description: Whether a unit must still be restarted, which C(restart) did not permit.
  type: bool
  returned: always
"""

import grp
import os
import pwd
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule

UNITS = "/etc/systemd/system"
# When a unit was last told to reload. On tmpfs, as a unit does not outlive a reboot either.
RELOADS = "/run/quintet/reloaded"
PAUSED = "/etc/quintet/paused"
# In this order, each for all units that need it.
VERBS = ("disable", "stop", "enable", "restart", "start", "reload")
PROPERTIES = "Id,LoadState,UnitFileState,ActiveState,NeedDaemonReload,ExecMainStartTimestamp,ActiveEnterTimestamp"


def timestamp(text):
    """Seconds since the epoch of systemctl's `--timestamp=us+utc`; 0 for a unit that never started."""
    if not text or text == "n/a":
        return 0.0
    return datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S.%f %Z").replace(tzinfo=UTC).timestamp()


def changed_at(paths):
    """When the newest of these files changed, seconds since the epoch; a file that is not there did not change."""
    return max((os.lstat(path).st_mtime for path in paths if os.path.lexists(path)), default=0.0)


def needed(unit, state, reloaded_at):
    """The verbs of systemctl that bring this unit from its state to where it is wanted."""
    running = state["ActiveState"] in ("active", "activating", "reloading")
    booted = state["UnitFileState"] not in ("disabled", "masked", "indirect")
    if not unit["enabled"]:
        return (["disable"] if booted and state["LoadState"] != "not-found" else []) + (["stop"] if running else [])
    verbs = [] if booted else ["enable"]
    started_at = timestamp(state.get("ExecMainStartTimestamp")) or timestamp(state.get("ActiveEnterTimestamp"))
    if not running:
        verbs.append("start")
    elif changed_at(unit["restart_after"]) > started_at:
        verbs.append("restart")
    elif changed_at(unit["reload_after"]) > max(started_at, reloaded_at):
        verbs.append("reload")
    return verbs


def outdated(unit, state):
    """Whether systemd may not have read the unit's files yet.

    It says so itself for the files it knows, but not for one that came to stand in front of the distribution's.
    """
    ours = [path for path in unit["restart_after"] if path.startswith("/etc/systemd/")]
    in_front = bool(ours and needed(unit | {"restart_after": ours, "reload_after": []}, state, 0.0))
    return state["NeedDaemonReload"] == "yes" or in_front


def observed(path):
    """What is at a path, in the words of the option C(files); None for nothing."""
    if os.path.islink(path):
        return {"link": os.readlink(path)}
    if not os.path.lexists(path):
        return None
    status = os.stat(path)
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {"content": file.read(), "ids": (status.st_uid, status.st_gid), "mode": status.st_mode & 0o7777}


def wanted(file):
    """The same for what is wanted there."""
    if file["absent"]:
        return None
    if file["link"] is not None:
        return {"link": file["link"]}
    if file["copy"] is not None:
        return observed(file["copy"])
    return {
        "content": file["content"] if file["secret"] is None else file["secret"],
        "ids": (pwd.getpwnam(file["owner"]).pw_uid, grp.getgrnam(file["group"]).gr_gid),
        "mode": int(file["mode"], 8),
    }


def make_directory(path):
    """Make a directory, and those that are missing above it, open to everybody whatever the umask is."""
    if not os.path.isdir(path):
        make_directory(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)


def replace(path, want, look=lambda beside: None):
    """Put what is wanted at a path, by a rename: nobody sees half of it, nor a secret before its mode is set.

    What is to be renamed may be looked at before.
    """
    make_directory(os.path.dirname(path))
    beside = f"{path}.{os.getpid()}.quintet"
    if "link" in want:
        os.symlink(want["link"], beside)
    else:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(want["content"])
            os.fchown(descriptor, *want["ids"])
            os.fchmod(descriptor, want["mode"])
            file.flush()
            os.fsync(descriptor)
    look(beside)
    os.replace(beside, path)


def leftovers(owner, files):
    """The names of this owner's unit files that are not among the files, sockets before what they would start."""
    kept = {file["path"] for file in files}
    found = []
    for name in sorted(os.listdir(UNITS), key=lambda name: (not name.endswith(".socket"), name)):
        path = os.path.join(UNITS, name)
        if path not in kept and os.path.isfile(path) and not os.path.islink(path):
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                if f"X-Quintet={owner}\n" in file:
                    found.append(name)
    return found


class Host:
    def __init__(self, module):
        self.module = module
        self.actions = []
        self.diffs = []
        self.waits = False

    def write(self, file):
        path, found, want = file["path"], observed(file["path"]), wanted(file)
        if want is None and not file["absent"] and not self.module.check_mode:
            self.module.fail_json(msg=f"There is no {file['copy']} on this host.", actions=self.actions)
        if found == want:
            return
        self.actions.append(f"remove {path}" if want is None else f"write {path}")
        if file["secret"] is None and file["copy"] is None:
            before, after = ((state or {}).get("content", (state or {}).get("link", "")) for state in (found, want))
            self.diffs.append({"before_header": path, "after_header": path, "before": before, "after": after})
        if self.module.check_mode:
            return
        if want is None:
            os.remove(path)
        elif found and found.get("content") == want.get("content") and "link" not in want and "link" not in found:
            # Only who may read it: not a change for its readers, so its time stays.
            os.chown(path, *want["ids"])
            os.chmod(path, want["mode"])
        else:
            replace(path, want, lambda beside: self.accept(file, beside))

    def accept(self, file, beside):
        code, out, err = self.module.run_command([*file["accept"], beside]) if file["accept"] else (0, "", "")
        if code:
            os.remove(beside)
            self.actions.remove(f"write {file['path']}")
            said = (err.strip() or out.strip()).replace(beside, file["path"])
            self.module.fail_json(msg=f"{file['path']} is left as it was: {said}", actions=self.actions)

    def systemctl(self, *arguments):
        code, out, err = self.module.run_command(["systemctl", *arguments])
        if code and arguments[0] in ("start", "restart"):
            code, out, err = self.once_more(arguments[1:]) or (code, out, err)
        if code:
            units = [word for word in arguments[1:] if word in err] or arguments[1:]
            _, log, _ = self.module.run_command(
                ["journalctl", "--no-pager", "--lines=20", "--output=cat", *(f"--unit={unit}" for unit in units)]
            )
            message = f"systemctl {' '.join(arguments)}: {err.strip()}\n{log.strip()}"
            self.module.fail_json(msg=message, actions=self.actions)
        return out

    def once_more(self, names):
        """Start units of which systemd would start one again by itself; None where it would not."""
        _, states, _ = self.module.run_command(["systemctl", "show", "--property=SubState", "--value", *names])
        return self.module.run_command(["systemctl", "start", *names]) if "auto-restart" in states else None

    def states(self, names):
        """The properties of these units, by their names."""
        out = self.systemctl("show", "--timestamp=us+utc", f"--property={PROPERTIES}", *names)
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in out.strip().split("\n\n")]
        return dict(zip(names, blocks, strict=True))

    def do(self, verb, names, guards=()):
        self.actions += [f"{verb} {name}" for name in names]
        if self.module.check_mode or not names:
            return
        for command in guards:
            code, out, err = self.module.run_command(command)
            if code:
                message = f"{' '.join(names)} was not restarted: {' '.join(command)}: {err.strip() or out.strip()}"
                self.module.fail_json(msg=message, actions=self.actions)
        self.systemctl(verb, *names)
        if verb == "reload":
            os.makedirs(RELOADS, exist_ok=True)
            for name in names:
                with open(os.path.join(RELOADS, name), "w"):
                    pass

    def wait(self, names):
        """Wait until these units are up, which somebody else has begun to start. That is no change."""
        if names and not self.module.check_mode:
            self.systemctl("start", *names)

    def without_paused(self, units):
        """The units as wanted, but for those that somebody has paused."""
        paused = [unit["name"] for unit in units if os.path.exists(os.path.join(PAUSED, unit["name"]))]
        if paused:
            self.module.warn(f"Paused, and left so: {', '.join(paused)}. A file of that name in {PAUSED} says so.")
        return [unit | {"enabled": unit["enabled"] and unit["name"] not in paused} for unit in units]

    def bring(self, units, may_restart=True):
        units = self.without_paused(units)
        names = [unit["name"] for unit in units]
        states = self.states(names)
        if any(outdated(unit, states[unit["name"]]) for unit in units) and not self.module.check_mode:
            self.systemctl("daemon-reload")
            states = self.states(names)
        wanted = {verb: [] for verb in VERBS}
        for unit in units:
            name = unit["name"]
            if unit["enabled"] and states[name]["LoadState"] == "not-found" and not self.module.check_mode:
                self.module.fail_json(msg=f"There is no unit {name} on this host.", actions=self.actions)
            for verb in needed(unit, states[name], changed_at([os.path.join(RELOADS, name)])):
                wanted[verb].append(name)
        left = wanted["stop"] + wanted["restart"]
        starting = [name for name in names if states[name]["ActiveState"] == "activating" and name not in left]
        restarted = [unit for unit in units if unit["name"] in wanted["restart"]]
        guards = [unit["before_restart"] for unit in restarted if unit["before_restart"]]
        if wanted["restart"] and not may_restart and not self.module.check_mode:
            self.waits, wanted["restart"] = True, []
        for verb, names in wanted.items():
            if verb == "reload":
                self.wait(starting)
            self.do(verb, names, guards if verb == "restart" else ())

    def remove(self, names):
        for name in names:
            self.actions.append(f"remove {name}")
            if not self.module.check_mode:
                self.systemctl("disable", "--now", name)
                os.remove(os.path.join(UNITS, name))
        if names and not self.module.check_mode:
            self.systemctl("daemon-reload")


def main():
    # Ansible would log the call on the host, with what is secret in a longer text, and overrules its own `no_log`.
    AnsibleModule.log = lambda *_, **__: None
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "secret": {"type": "str", "no_log": True},
                    "copy": {"type": "path"},
                    "link": {"type": "str"},
                    "absent": {"type": "bool", "choices": [True]},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "default": "0644"},
                    "accept": {"type": "list", "elements": "str", "default": []},
                },
                "mutually_exclusive": [("content", "secret", "copy", "link", "absent")],
                "required_one_of": [("content", "secret", "copy", "link", "absent")],
            },
            "units": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "enabled": {"type": "bool", "default": True},
                    "restart_after": {"type": "list", "elements": "path", "default": []},
                    "reload_after": {"type": "list", "elements": "path", "default": []},
                    "before_restart": {"type": "list", "elements": "str", "default": []},
                },
            },
            "owner": {"type": "str"},
            # For the action plugin of the same name.
            "one_at_a_time": {"type": "str", "default": ""},
            "restart": {"type": "bool", "default": True},
        },
    )
    host = Host(module)
    for file in module.params["files"]:
        host.write(file)
    if module.params["units"]:
        host.bring(module.params["units"], module.params["restart"])
    if module.params["owner"]:
        host.remove(leftovers(module.params["owner"], module.params["files"]))
    module.exit_json(changed=bool(host.actions), actions=host.actions, diff=host.diffs, waits=host.waits)


if __name__ == "__main__":
    main()
