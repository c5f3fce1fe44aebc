"""A steady stream of jobs, with a log of each intent and each answer, and what must be true of them afterwards."""

import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field

import requests

from verify import TOPOLOGY, contract, eventually, node

BASE = f"http://{contract('host_address')}:{contract('http_port')}"
HOST = {"Host": contract("app_hostnames")[0]}
TIMEOUT_SECONDS = 20
DATABASE = TOPOLOGY.hosts("postgresql")[0]
BROKER = TOPOLOGY.hosts("rabbitmq")[0]


@dataclass
class Intent:
    """One job that a client wants, and what became of it. The key says that a second try means the same job."""

    words: tuple
    work_seconds: int
    key: str = field(default_factory=lambda: str(uuid.uuid4()))
    job: str = ""
    answers: list = field(default_factory=list)  # (seconds, status or the name of an error)


class Stream:
    """Clients that post jobs, `per_second` in all, within its `with`. One that is refused tries again, with its key."""

    def __init__(self, per_second=6, clients=3, work_seconds=1):
        """Every fourth job takes so long, so that there is always one to interrupt."""
        self.intents = []
        self._pause = clients / per_second
        self._work_seconds = work_seconds
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self):
        """Begin, and wait until the first jobs are accepted."""
        for thread in self._threads:
            thread.start()
        eventually(lambda: len(self.accepted) >= len(self._threads), 20)
        return self

    def __exit__(self, *failure):
        """Stop asking for more; what is under way is answered, or refused for good."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def accepted(self):
        """The intents that were accepted."""
        return [intent for intent in self.intents if intent.job]

    @property
    def answers(self):
        """Each answer that a client got: (seconds, status or error)."""
        return [answer for intent in self.intents for answer in intent.answers]

    def _run(self, number):
        with requests.Session() as session:
            count = 0
            while not self._stop.is_set():
                count += 1
                intent = Intent((f"client{number}", f"job{count}"), self._work_seconds if count % 4 == 0 else 0)
                self.intents.append(intent)
                deadline = time.monotonic() + 60
                while not self._post(session, intent) and time.monotonic() < deadline:
                    time.sleep(0.5)
                self._stop.wait(self._pause)

    def _post(self, session, intent):
        first, second = intent.words
        content = {"first": first, "second": second, "work_seconds": intent.work_seconds}
        started = time.monotonic()
        try:
            answer = session.post(
                f"{BASE}/api/jobs",
                json=content,
                headers=HOST | {"Idempotency-Key": intent.key},
                timeout=TIMEOUT_SECONDS,
            )
        except requests.RequestException as exc:
            intent.answers.append((time.monotonic() - started, type(exc).__name__))
            return False
        intent.answers.append((time.monotonic() - started, answer.status_code))
        if answer.status_code in (200, 202):
            intent.job = answer.json()["id"]
        return bool(intent.job)


def results():
    """The results file, as anybody can get it: job -> list of results, which should have one element."""
    answer = requests.get(f"{BASE}/results.txt", headers=HOST, timeout=TIMEOUT_SECONDS)
    answer.raise_for_status()
    found = {}
    for line in answer.text.splitlines():
        _, job, _, _, result = line.split("\t")
        found.setdefault(job, []).append(result)
    return found


def effects():
    """How often the service had its effect: job -> count."""
    query = "COPY (SELECT task_id, count(*) FROM joining_joined GROUP BY task_id) TO STDOUT"
    rows = node(DATABASE).check_output(f'runuser -u postgres -- psql --no-psqlrc --quiet service --command "{query}"')
    return {job: int(count) for job, count in (row.split("\t") for row in rows.splitlines())}


def messages():
    """What is in the queues: queue -> count of messages, ready and unacknowledged."""
    rows = node(BROKER).check_output(
        f"rabbitmqctl --quiet list_queues --vhost {contract('broker_vhost')} name messages --no-table-headers"
    )
    return {name: int(count) for name, count in (row.split("\t") for row in rows.splitlines())}


def assert_nothing_lost(stream, *, slowest, refused=(), seconds=90):
    """Each accepted job was done, exactly once; no answer took longer than `slowest` seconds; no queue has any left.

    `refused` are the answers that a client may get besides, because a fault leaves no other.
    """
    wanted = {intent.job: " es ".join(intent.words) for intent in stream.accepted}
    assert len(wanted) == len(stream.accepted) == len(stream.intents), "a job was not accepted, or two were one"

    def all_done():
        missing = wanted.keys() - results().keys()
        assert not missing, f"{len(missing)} of {len(wanted)} accepted jobs are not done, as {sorted(missing)[:3]}"
        return True

    eventually(all_done, seconds)
    found = results()
    assert {job: found[job] for job in wanted} == {job: [result] for job, result in wanted.items()}
    count = effects()
    wrong = {job: count.get(job, 0) for job in wanted if count.get(job) != 1}
    assert not wrong, f"not done exactly once: {wrong}"
    kinds = Counter(answer for _, answer in stream.answers)
    assert kinds.keys() <= {200, 202, *refused}, kinds
    assert max(took for took, _ in stream.answers) < slowest

    def nothing_left():
        left = {queue: count for queue, count in messages().items() if count}
        assert not left, f"left in queues: {left}"
        return True

    eventually(nothing_left, 30)
