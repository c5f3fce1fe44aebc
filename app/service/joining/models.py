"""What was executed, and the effects: PostgreSQL decides what happened."""

import json

from django.db import connection, models
from kombu.utils.json import JSONEncoder

# Each task waits for these two: in SQL they take a third of the ORM's time, and Django's `ignore_conflicts` does not
# tell whether there was a conflict.
BEGIN = """
    INSERT INTO joining_execution (task_id, task, attempt, state, reason, worker, started_at, finished_at)
    VALUES (%s, %s, %s, 'succeeded', '', %s, %s, %s)
    ON CONFLICT DO NOTHING
"""
END = """
    UPDATE joining_execution
    SET attempt = %s, state = %s, result = %s, reason = %s, worker = %s, started_at = %s, finished_at = %s
    WHERE task_id = %s
"""


class ExecutionManager(models.Manager):
    """Executions, one for each task id."""

    def begin(self, task_id, task, attempt, worker, started_at):
        """Claim a task until the end of the transaction, as `(execution, ours)`.

        `ours` is false when it ended before: the execution then says how. One that failed is ours again when the
        `attempt` is a later one. While another worker has the task, this waits for that one's end.
        """
        with connection.cursor() as cursor:
            cursor.execute(BEGIN, [task_id, task, attempt, worker, started_at, started_at])
            ours = bool(cursor.rowcount)
        if not ours:
            stored = self.select_for_update().get(pk=task_id)
            if stored.succeeded or stored.attempt >= attempt:
                return stored, False
        return self.model(task_id=task_id, task=task, attempt=attempt, worker=worker, started_at=started_at), True


class Execution(models.Model):
    """A task that ended here. Its row and its effects are committed together: neither is there without the other."""

    class State(models.TextChoices):
        """How it ended."""

        SUCCEEDED = "succeeded"
        FAILED = "failed"

    task_id = models.UUIDField(primary_key=True)
    task = models.CharField(max_length=255)
    attempt = models.PositiveSmallIntegerField(default=1, help_text="Which of its sender's attempts this was, from 1.")
    state = models.CharField(max_length=9, choices=State, default=State.SUCCEEDED)
    result = models.JSONField(null=True, encoder=JSONEncoder, help_text="In the form in which it goes over the wire.")
    reason = models.TextField(blank=True, help_text="Why it failed.")
    worker = models.CharField(max_length=255, help_text="The host that executed it.")
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()

    objects = ExecutionManager()

    class Meta:
        """No state that means nothing."""

        constraints = (
            models.CheckConstraint(
                name="execution_state_is_known", condition=models.Q(state__in=("succeeded", "failed"))
            ),
            models.CheckConstraint(
                name="execution_failed_has_reason", condition=models.Q(state="succeeded") | ~models.Q(reason="")
            ),
        )

    def __str__(self):
        return f"{self.task} {self.task_id}: {self.state}"

    def end(self, finished_at, *, state=State.SUCCEEDED, result=None, reason=""):
        """Store how it ended, in the transaction in which it began."""
        self.state, self.result, self.reason, self.finished_at = state, result, reason, finished_at
        stored = None if result is None else json.dumps(result, cls=JSONEncoder)
        with connection.cursor() as cursor:
            cursor.execute(
                END,
                [self.attempt, state, stored, reason, self.worker, self.started_at, finished_at, self.task_id],
            )

    @property
    def succeeded(self):
        """Whether there is a result; there is a reason otherwise."""
        return self.state == self.State.SUCCEEDED


class Joined(models.Model):
    """The effect of `adding_task`. Nothing here forbids a second row: to see to that is what `Execution` is for."""

    task_id = models.UUIDField(db_index=True)
    text = models.TextField()
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        return self.text
