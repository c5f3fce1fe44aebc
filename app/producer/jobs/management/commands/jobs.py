"""manage.py jobs: look at jobs and try them again."""

import json
import uuid
from datetime import UTC

from django.core.management.base import BaseCommand, CommandError

from jobs import services
from jobs.models import Job, ParkedTask

FIELDS = (
    *("id", "state", "first", "second", "work_seconds", "delay_seconds", "attempt", "result", "reason", "worker"),
    *("created_at", "due_at", "started_at", "finished_at", "resends", "idempotency_key"),
)
PARKED_FIELDS = ("id", "task_id", "task", "args", "kwargs", "queue", "reason", "parked_at", "retried_at")


class Command(BaseCommand):
    """List jobs, show one, try those again that ended badly."""

    help = "Look at jobs and try them again. One line each; with --json a JSON object on each line."

    def add_arguments(self, parser):
        """What to do, and with which jobs."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="list | show | retry | parked")

        action = self.add(actions, "list", "the jobs, the newest first")
        action.add_argument("--state", choices=Job.State.values)
        action.add_argument("--search", metavar="TEXT", help="in one of the words, or at the start of the id")
        action.add_argument("--limit", type=int, default=20)

        action = self.add(actions, "show", "all that is known of one job")
        action.add_argument("id", type=uuid.UUID)

        action = self.add(actions, "retry", "let jobs that failed or were parked wait again, as their next attempt")
        action.add_argument("id", nargs="*", type=uuid.UUID, help="of a job")
        action.add_argument("--state", choices=Job.ENDED_BADLY, help="all jobs in this state")
        action.add_argument("--task", nargs="*", type=int, default=[], metavar="NUMBER", help="of a parked task")

        action = self.add(actions, "parked", "dead letters that are no jobs; try one again with: retry --task NUMBER")
        action.add_argument("--limit", type=int, default=20)

    def add(self, actions, name, text):
        """An action with the options that all have."""
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--json", action="store_true", help="a JSON object on each line")
        return action

    def handle(self, *args, action, **options):
        """Exit with 0 if all that was asked for was done."""
        getattr(self, f"do_{action}")(**options)

    def do_list(self, *, state, search, limit, json, **options):
        """Some jobs."""
        jobs = Job.objects.filter(state=state) if state else Job.objects.all()
        for job in (jobs.search(search) if search else jobs)[:limit]:
            self.put(job, FIELDS, json)

    def do_show(self, *, id, json, **options):
        """One job."""
        job = Job.objects.filter(pk=id).first()
        if job is None:
            raise CommandError(f"There is no job {id}.")
        if json:
            self.put(job, FIELDS, json)
        else:
            for name in FIELDS:
                if (value := getattr(job, name)) not in ("", None):
                    self.stdout.write(f"{name:15} {value}")

    def do_retry(self, *, id, state, task, json, **options):
        """Some jobs or parked tasks again. Those that cannot be are an error, after all others are done."""
        if not (id or state or task):
            raise CommandError("Which? Give ids of jobs, --state, or --task NUMBER.")
        jobs = Job.objects.in_bulk(id) | (Job.objects.filter(state=state).in_bulk() if state else {})
        tasks = ParkedTask.objects.in_bulk(task)
        refused = [f"There is no job {one}." for one in id if one not in jobs]
        refused += [f"There is no parked task {one}." for one in task if one not in tasks]
        for job in jobs.values():
            if services.retry(job):
                self.put(job, FIELDS, json)
            else:
                refused.append(f"Job {job.pk} is {job.state}; only one that is failed or parked can be retried.")
        for parked in tasks.values():
            if services.retry_parked(parked):
                self.put(parked, PARKED_FIELDS, json)
            else:
                refused.append(
                    f"Parked task {parked.pk} was retried before, or is not readable, or not from our queues."
                )
        if refused:
            raise CommandError("\n".join(refused))

    def do_parked(self, *, limit, json, **options):
        """Parked tasks that are no jobs."""
        for parked in ParkedTask.objects.all()[:limit]:
            self.put(parked, PARKED_FIELDS, json)

    def put(self, row, fields, as_json):
        """One line about a row."""
        if as_json:
            values = {name: getattr(row, name) for name in fields}
            self.stdout.write(json.dumps(values, default=str, ensure_ascii=False))
        elif isinstance(row, Job):
            words = f"{row.first!r} + {row.second!r}"
            self.stdout.write(f"{row.pk}  {moment(row.created_at)}  {row.state:7}  {words}  {row.reason or row.result}")
        else:
            again = f"  (sent again {moment(row.retried_at)})" if row.retried_at else ""
            self.stdout.write(f"{row.pk}  {moment(row.parked_at)}  {row.queue}  {row.task}  {row.reason}{again}")


def moment(time):
    """A time for people, to the second."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
