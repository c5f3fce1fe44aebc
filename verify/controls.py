"""Shows that the tests of faults can fail: takes away one protection at a time, and runs the test that should miss it.

By hand, on a stack that is deployed and may be spoilt: make chaos-controls. Takes about five minutes; exits with 1 if a
test did not notice. The releases on the hosts are changed in place and put back.
"""

import subprocess
import sys
from dataclasses import dataclass

from verify import FIRST, TOPOLOGY, contract, node

WORKER = TOPOLOGY.hosts("worker")[0]


@dataclass
class Control:
    """A protection, how the code looks without it, and the test that must not pass then."""

    protection: str
    host: str
    project: str
    file: str
    code: str
    without: str
    unit: str
    test: str

    def replace(self, old, new):
        """Change the running release, which must have the old code."""
        path = f"{contract('projects_directory')}/{self.project}/current/source/{self.file}"
        text = node(self.host).file(path).content_string
        assert old in text, f"{self.file} has changed: {old!r} is not in it"
        subprocess.run(
            ["docker", "exec", "-i", contract("ansible_host", self.host), "sh", "-c", f"cat >{path}"],
            input=text.replace(old, new, 1),
            text=True,
            check=True,
        )
        node(self.host).check_output(f"systemctl restart {self.unit}")

    def missed(self):
        """Whether the test fails without the protection."""
        self.replace(self.code, self.without)
        try:
            command = [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "--no-header",
                f"verify/faults/test_faults.py::{self.test}",
            ]
            result = subprocess.run(command, capture_output=True, text=True)
        finally:
            self.replace(self.without, self.code)
        why = [line for line in result.stdout.splitlines() if line.startswith("E  ")]
        print(f"without {self.protection}: {self.test} {'fails' if result.returncode == 1 else 'DOES NOT FAIL'}")
        print(*why[:2], sep="\n", flush=True)
        return result.returncode == 1


CONTROLS = [
    Control(
        "the outbox", FIRST, "producer", "jobs/services.py",
        "    Outbox.objects.bulk_create(\n",
        "    from .broker import Sender\n    (lambda messages: Sender().send(list(messages), lambda message: None))(\n",
        "gunicorn-producer", "test_rabbitmq_restarts",
    ),
    Control(
        "confirms", FIRST, "producer", "jobs/broker.py",
        "        deadline = time.monotonic() + CONFIRM_SECONDS\n        while True:\n",
        "        for message in self._pending.values():\n            confirmed(message)\n"
            "        self._pending.clear()\n        self._connection.default_channel.events['basic_ack'].clear()\n"
        "        deadline = time.monotonic() + CONFIRM_SECONDS\n        while True:\n",
        "relay-producer", "test_web_and_rabbitmq_are_cut_off_from_each_other",
    ),
    Control(
        "late acks", WORKER, "service", "service/settings.py",
        "CELERY_TASK_ACKS_LATE = True\n", "CELERY_TASK_ACKS_LATE = False\n",
        "celery-service", "test_a_child_of_the_worker_is_killed_in_the_middle_of_a_task",
    ),
    Control(
        "the record of executions", WORKER, "service", "joining/once.py",
        "            if ours:\n", "            if True:\n",
        "celery-service", "test_rabbitmq_hangs",
    ),
]  # fmt: skip


if __name__ == "__main__":
    chosen = [control for control in CONTROLS if not sys.argv[1:] or control.protection in sys.argv[1:]]
    sys.exit(not all([control.missed() for control in chosen]))
