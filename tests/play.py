"""ansible-playbook without its start: Ansible is imported once, by a server of forks, and each run is a fork of that.

Importing is a second of processor time a run, which is most of what a run takes that ends at its first check.
"""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

# What Ansible reads when it is imported.
ROOT = Path(__file__).parent.parent
os.environ |= {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ansible.cli.playbook", __name__])


def playbook(arguments, environment, words):
    """What a fork does: be ansible-playbook, and say what it has to say into a file."""
    os.chdir(ROOT)
    os.environ.update(environment)
    said = os.open(words, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    # Here it is imported already, and nobody else needs it.
    from ansible.cli.playbook import main

    main(["ansible-playbook", *map(str, arguments)])


def play(*arguments, **environment):
    """Run a playbook; its exit status, and what it said."""
    with tempfile.NamedTemporaryFile("r") as words:
        run = FORKS.Process(target=playbook, args=(arguments, environment, words.name))
        run.start()
        run.join()
        return run.exitcode, words.read()
