"""One fault under load: inject it, put it right, wait until the stack is whole, and see what was noticed and lost."""

import random
import time
import uuid

from verify.chaos.cluster import lacking
from verify.stream import Stream, findings

# Requests per second. Everything shares two cores here: more would measure how long they take.
LOAD = {"per_second": 8, "reads": 8, "delayed": 1, "again": 1}
CALM_SECONDS = 3
# Until a run gives up: nothing else should be tried on a stack that does not come back.
WHOLE_SECONDS, DONE_SECONDS = 240, 120


class NeverWhole(Exception):
    """The stack does not come back by itself."""


def whole(seconds=WHOLE_SECONDS):
    """Wait until nothing is missing, and say since when (a look takes some seconds); NeverWhole says what is."""
    deadline = time.time() + seconds
    while True:
        since = time.time()
        if not (missing := lacking()):
            return since
        if since > deadline:
            raise NeverWhole(f"after {seconds} s there is something missing: {missing}")
        time.sleep(0.5)


def run(fault, directory, seed=0):
    """The findings; the log is in the directory."""
    with fault.prepared(whole):
        return under_load(fault, directory, seed)


def under_load(fault, directory, seed=0, seconds=WHOLE_SECONDS, calm=CALM_SECONDS, **more):
    """The same, on a stack as it is, which has so many seconds to become whole. `more` is for the load."""
    chance = random.Random(f"{seed} {fault.name}")
    name = f"{fault.name}-{uuid.uuid4().hex[:8]}"
    with Stream(**LOAD, **more, name=name, log=directory / f"{name}.jsonl", seed=seed) as stream:
        time.sleep(calm)
        hosts = fault.hosts(chance)
        stream.log.write(event="begins", fault=fault.name, seed=seed, hosts=hosts)
        try:
            fault.what.begin(fault, hosts, chance)
            time.sleep(fault.seconds)
        finally:
            fault.what.end(fault, hosts, chance)
        stream.log.write(event="heals")
        try:
            stream.log.write(event="whole", at=whole(seconds))
        except NeverWhole as exc:
            stream.log.write(event="lacking", what=str(exc))
        time.sleep(CALM_SECONDS)
    return findings(stream, DONE_SECONDS)
