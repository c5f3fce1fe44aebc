"""The part of systemd_units that is done on the controller: hosts that must not restart together wait for each other.

Ansible's own `throttle` does not: it knows a task by its id, and a role that is included has another one for each host.
"""

import contextlib
import fcntl
from pathlib import Path

from ansible import constants
from ansible.plugins.action import ActionBase


@contextlib.contextmanager
def alone(name):
    """Wait until no other host of this run is between these two lines."""
    # The directory of this run, which all its processes have in common and which goes with it.
    with Path(constants.DEFAULT_LOCAL_TMP, f"systemd_units-{name}").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


class ActionModule(ActionBase):
    """Runs the module of the same name: where restarts take turns, all but those first."""

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        name = self._task.args.get("one_at_a_time")
        found = self._execute_module(module_args=self._task.args | {"restart": not name}, task_vars=task_vars)
        if not found.get("waits"):
            return found
        with alone(name):
            after = self._execute_module(module_args=self._task.args, task_vars=task_vars)
        return after | {
            "changed": found["changed"] or after.get("changed", False),
            "actions": found["actions"] + after.get("actions", []),
            "diff": found["diff"] + after.get("diff", []),
        }
