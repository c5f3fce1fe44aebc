"""What the process of each task inherits: Ansible forks one for each task and host, which is most of a run."""

import gc

from ansible.plugins.callback import CallbackBase
from ansible.template import Templar, trust_as_template

DOCUMENTATION = """
name: workers
type: aggregate
short_description: Workers that begin with what each of them needs
description:
  - Loads the filters and the lexer of templates once, before the first fork, and not again in each worker.
  - Keeps Python's garbage collector from what is there before a fork, which looking at it would copy into each worker.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "workers"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook):
        # A filter of Ansible's own, so that all of them are looked up.
        Templar().template(trust_as_template("{{ '' | hash }}"))

    def v2_playbook_on_play_start(self, play):
        gc.collect()
        gc.freeze()
