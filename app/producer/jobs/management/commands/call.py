"""manage.py call: send any task, wait for its result."""

import json
import time

from celery.states import SUCCESS
from django.core.management.base import BaseCommand, CommandError

from jobs import broker, results


def parse(text):
    """An argument: JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


class Command(BaseCommand):
    """Send a task by name and print its result as one line of JSON."""

    help = "Send a task by name, wait for its result, and print it as one line of JSON: call add 2 3"

    def add_arguments(self, parser):
        """The task, its arguments, where to, and how long to wait."""
        parser.add_argument("task")
        parser.add_argument("args", nargs="*", metavar="arg", help="JSON, or else text")
        parser.add_argument("--queue", default="service")
        parser.add_argument("--timeout", type=float, default=20, metavar="SECONDS")

    def handle(self, *args, task, queue, timeout, **options):
        """Exit with 0 only if the task succeeded."""
        started = time.monotonic()
        report = {"ok": False, "task": task}
        try:
            report["id"] = broker.publish(task, [parse(arg) for arg in args], queue=queue)
            meta = results.fetch(report["id"], timeout)
        except (broker.PublishError, *results.UNREACHABLE) as exc:
            report["error"] = f"{type(exc).__name__}: {exc}"
        else:
            if meta is None:
                report["error"] = f"no result within {timeout:g} s"
            elif meta["status"] != SUCCESS:
                report |= {"worker": results.worker(meta), "error": results.describe(meta["result"])}
            else:
                report |= {"worker": results.worker(meta), "ok": True, "result": meta["result"]}
        report["seconds"] = round(time.monotonic() - started, 3)
        self.stdout.write(json.dumps(report))
        if not report["ok"]:
            raise CommandError(report["error"])
