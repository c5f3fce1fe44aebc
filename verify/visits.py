"""People who ask for a page, each on a connection of his own, while something happens to the hosts."""

import itertools
import threading
import time
from dataclasses import dataclass

import requests

from verify import BASE, visitor

PATH = "/healthz/live"
TIMEOUT_SECONDS = 30


@dataclass
class Visit:
    """When it began, how long it took, and the status or the name of the error."""

    began: float
    seconds: float
    outcome: int | str


class Visits:
    """So many visits a second, within its `with`, whether or not those before have been answered."""

    def __init__(self, per_second=20, path=PATH):
        self.visits = []
        self._pause, self._path = 1 / per_second, path
        self._stop = threading.Event()
        self._threads = []
        self._main = threading.Thread(target=self._run)

    def __enter__(self):
        """Begin, and wait for the first answers."""
        self._main.start()
        time.sleep(1)
        return self

    def __exit__(self, *failure):
        """Nobody comes any more; who is there is answered."""
        self._stop.set()
        self._main.join()
        for thread in self._threads:
            thread.join()

    def _run(self):
        following = time.monotonic()
        while not self._stop.wait(max(0, following - time.monotonic())):
            following += self._pause
            thread = threading.Thread(target=self._visit)
            thread.start()
            self._threads.append(thread)

    def _visit(self):
        began = time.monotonic()
        try:
            with visitor() as session:
                outcome = session.get(BASE + self._path, timeout=(2, TIMEOUT_SECONDS)).status_code
        except requests.RequestException as exc:
            outcome = type(exc).__name__
        self.visits.append(Visit(began, time.monotonic() - began, outcome))

    @property
    def failed(self):
        """Those that were not answered as they should be."""
        return [visit for visit in self.visits if visit.outcome != 200]

    @property
    def gap(self):
        """The longest time, in seconds, in which nobody got an answer."""
        times = sorted(visit.began + visit.seconds for visit in self.visits if visit.outcome == 200)
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    @property
    def slowest(self):
        """How long, in seconds, somebody waited for an answer or an error."""
        return max(visit.seconds for visit in self.visits)

    def __str__(self):
        """What was seen, for the message of a test."""
        outcomes = sorted({str(visit.outcome) for visit in self.failed})
        count = f"{len(self.failed)} of {len(self.visits)} failed {outcomes}"
        return f"{count}; gap {self.gap:.2f} s, slowest {self.slowest:.2f} s"
