"""The last lines of a run: what changed, and what the playbook has to say about what runs where."""

from ansible import constants as C
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: summary
type: aggregate
short_description: What changed, and what runs where
description:
  - Prints whether a run changed anything, and the lines that the playbook left in the custom statistic C(summary).
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "summary"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_stats(self, stats):
        lines = stats.custom.get("_run", {}).get("summary")
        if not lines:
            return
        if any(stats.summarize(host)["failures"] + stats.summarize(host)["unreachable"] for host in stats.processed):
            return
        changes = sum(stats.summarize(host)["changed"] for host in stats.processed)
        self._display.display(f"{changes} changes." if changes else "Nothing changed.", color=C.COLOR_OK)
        for line in lines:
            self._display.display(line)
