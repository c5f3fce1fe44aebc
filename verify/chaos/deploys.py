"""Deploys that are killed at random points with all their processes; one to its end; and one that changes nothing.

On nodes as they are: empty ones are begun from nothing. Each deploy starts at once after the one before was killed,
while what that had begun on the hosts may still go on there. The points follow from the seed. Ends with 1 if the deploy
to its end fails, if the next one changes something, or if what runs then is not whole.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from verify import PLAIN, ROOT, TOPOLOGY, deploy, playbook_command
from verify.chaos.run import whole

LEAST_SECONDS, MOST_SECONDS = 3, 60


def family(process):
    """The ids of a process and of all that descend from it."""
    ids = [process]
    # Some of them may end meanwhile.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            for child in task.read_text().split():
                ids += family(int(child))
    return ids


def killed(seconds):
    """Deploy, and kill it after so many seconds: in which task that was, or None if it had ended before."""
    with tempfile.TemporaryFile("w+") as said:
        run = subprocess.Popen(playbook_command("deploy.yml"), cwd=ROOT, stdout=said, stderr=said, env=PLAIN)
        try:
            run.wait(seconds)
        except subprocess.TimeoutExpired:
            for number in family(run.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            run.wait()
        said.seek(0)
        text = said.read()
    if run.returncode == -signal.SIGKILL:
        return (re.findall(r"^(?:TASK|PLAY) \[(.*)\]", text, re.MULTILINE) or ["before the first task"])[-1]
    assert run.returncode == 0, text
    return None


def main():
    parser = argparse.ArgumentParser("python -m verify.chaos.deploys", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--times", type=int, default=20, help="so many are killed, at most")
    given = parser.parse_args()
    chance = random.Random(given.seed)
    print(f"seed {given.seed}, {len(TOPOLOGY.hosts())} hosts", flush=True)
    for _ in range(given.times):
        seconds = chance.uniform(LEAST_SECONDS, MOST_SECONDS)
        task = killed(seconds)
        if task is None:
            break
        print(f"killed after {seconds:.1f} s: {task}", flush=True)
    begun = time.monotonic()
    changes, _ = deploy()
    print(f"to its end: {changes} changes, {time.monotonic() - begun:.0f} s", flush=True)
    changes, text = deploy()
    print(f"and again: {changes} changes")
    if changes:
        print(text)
    if len(TOPOLOGY.hosts("postgresql")) > 1:
        whole()
        print("whole")
    sys.exit(changes > 0)


if __name__ == "__main__":
    main()
