#!/usr/bin/python
"""Bring systemd units to where their configuration wants them."""

DOCUMENTATION = r"""
module: systemd_units
short_description: Units enabled, running, and running what their files say
description:
  - Enables and starts units, in the order given, in one call.
  - A unit whose process is older than a file that it reads is restarted, or reloaded. That is decided from the state of
    the host, not from what this run happened to change, so that a deploy killed between writing a file and restarting
    its reader is put right by the next one. A handler forgets.
options:
  units:
    description: The units, in the order in which they are brought up.
    type: list
    elements: dict
    required: true
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
author: Quintet
"""

EXAMPLES = r"""
- name: Run nginx with its present configuration
  systemd_units:
    units:
      - name: nginx.service
        reload_after: [/etc/nginx/conf.d/site.conf]
"""

RETURN = r"""
actions:
  description: What was done, in order, such as C(restart nginx.service).
  type: list
  returned: always
"""

import os
from datetime import UTC, datetime

from ansible.module_utils.basic import AnsibleModule

# When a unit was last told to reload. On tmpfs, as a unit does not outlive a reboot either.
RELOADS = "/run/quintet/reloaded"
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


class Units:
    def __init__(self, module):
        self.module = module
        self.actions = []

    def systemctl(self, *arguments):
        code, out, err = self.module.run_command(["systemctl", *arguments])
        if code:
            unit = arguments[-1]
            _, log, _ = self.module.run_command(
                ["journalctl", "--no-pager", "--lines=20", "--output=cat", "--unit", unit]
            )
            self.module.fail_json(
                msg=f"systemctl {' '.join(arguments)}: {err.strip()}\n{log.strip()}", actions=self.actions
            )
        return out

    def states(self, names):
        """The properties of these units; only instances of templates and installed units have any."""
        out = self.systemctl("show", "--timestamp=us+utc", f"--property={PROPERTIES}", *names)
        blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in out.strip().split("\n\n")]
        return dict(zip(names, blocks, strict=True))

    def do(self, verb, name):
        self.actions.append(f"{verb} {name}")
        if self.module.check_mode:
            return
        self.systemctl(verb, name)
        if verb == "reload":
            os.makedirs(RELOADS, exist_ok=True)
            with open(os.path.join(RELOADS, name), "w"):
                pass

    def bring(self, units):
        names = [unit["name"] for unit in units]
        states = self.states(names)
        if any(outdated(unit, states[unit["name"]]) for unit in units) and not self.module.check_mode:
            self.systemctl("daemon-reload")
            states = self.states(names)
        for unit in units:
            name = unit["name"]
            if unit["enabled"] and states[name]["LoadState"] == "not-found" and not self.module.check_mode:
                self.module.fail_json(msg=f"There is no unit {name} on this host.", actions=self.actions)
            for verb in needed(unit, states[name], changed_at([os.path.join(RELOADS, name)])):
                self.do(verb, name)


def main():
    module = AnsibleModule(
        supports_check_mode=True,
        argument_spec={
            "units": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "enabled": {"type": "bool", "default": True},
                    "restart_after": {"type": "list", "elements": "path", "default": []},
                    "reload_after": {"type": "list", "elements": "path", "default": []},
                },
            }
        },
    )
    units = Units(module)
    units.bring(module.params["units"])
    module.exit_json(changed=bool(units.actions), actions=units.actions)


if __name__ == "__main__":
    main()
