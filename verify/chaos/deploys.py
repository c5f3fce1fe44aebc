"""A playbook is killed at random points with all its processes; then it ends; and a deploy after it changes nothing.

A deploy is killed on nodes as they are: empty ones are begun from nothing. A runbook is killed on a stack that is
deployed, under a stream of jobs. Each run starts at once after the one before was killed, while what that had begun on
the hosts may still go on there. The points follow from the seed. Ends with 1 if the run to its end fails, if a deploy
after it changes something, if a job was lost, or if what runs then is not whole.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from verify import PLAIN, ROOT, TOPOLOGY, deploy, failure, playbook, playbook_command
from verify.stream import Stream, findings
from verify.tiers import SEVERAL

if SEVERAL:
    from verify.chaos.run import whole

LEAST_SECONDS, MOST_SECONDS = 3.0, 60.0


def family(process):
    """The ids of a process and of all that descend from it."""
    ids = [process]
    # Some of them may end meanwhile.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            for child in task.read_text().split():
                ids += family(int(child))
    return ids


def killed(path, extra, seconds):
    """Run a playbook, and kill it after so many seconds: in which task that was, or None if it had ended before."""
    command = playbook_command(path, extra=extra)
    with tempfile.TemporaryFile("w+") as said:
        run = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, env=PLAIN)
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


def killed_until_done(given, extra):
    """Kill the playbook so many times, at most, and run it to its end."""
    chance = random.Random(given.seed)
    for _ in range(given.times):
        seconds = chance.uniform(given.least, given.most)
        task = killed(given.playbook, extra, seconds)
        if task is None:
            break
        print(f"killed after {seconds:.1f} s: {task}", flush=True)
    begun = time.monotonic()
    result = playbook(given.playbook, extra=extra)
    print(f"to its end: {time.monotonic() - begun:.0f} s", flush=True)
    assert result.returncode == 0, failure(result)


def main():
    parser = argparse.ArgumentParser("python -m verify.chaos.deploys", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--times", type=int, default=20, help="so many are killed, at most")
    parser.add_argument("--least", type=float, default=LEAST_SECONDS, help="seconds until one is killed, at least")
    parser.add_argument("--most", type=float, default=MOST_SECONDS, help="and at most")
    parser.add_argument("--playbook", default="deploy.yml", help="as runbooks/reboot/playbook.yml")
    parser.add_argument("--extra-vars", default="{}", help="of the playbook, as JSON")
    given = parser.parse_args()
    extra = json.loads(given.extra_vars)
    print(f"{given.playbook}, seed {given.seed}, {len(TOPOLOGY.hosts())} hosts", flush=True)
    wrong = False
    if given.playbook == "deploy.yml":
        killed_until_done(given, extra)
    else:
        with Stream(per_second=3) as stream:
            killed_until_done(given, extra)
        found = findings(stream)
        print(
            f"no answer for {found.gap:.1f} s, {found.raw} of {found.requests} failed, wrong: {found.wrong}", flush=True
        )
        wrong = bool(found.wrong)
    # The same inventory: a release is what it says.
    changes, text = deploy(extra=extra)
    print(f"a deploy: {changes} changes")
    if changes:
        print(text)
    if SEVERAL:
        whole()
        print("whole")
    sys.exit(changes > 0 or wrong)


if __name__ == "__main__":
    main()
