"""The job: PostgreSQL's row is the truth about it."""

import uuid

from django.db import models
from django.urls import reverse
from django.utils import timezone


class Job(models.Model):
    """Two words to join, and what became of them. Its id is also its task's id."""

    class State(models.TextChoices):
        """A job waits, and then ends once, in one of two ways."""

        WAITING = "waiting"
        DONE = "done"
        FAILED = "failed"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    first = models.CharField(max_length=200)
    second = models.CharField(max_length=200)
    state = models.CharField(max_length=7, choices=State, default=State.WAITING)
    result = models.TextField(blank=True)
    reason = models.TextField(blank=True, help_text="Why the job failed.")
    worker = models.CharField(max_length=255, blank=True, help_text="The host whose worker executed the task.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """The newest first; no state that means nothing."""

        ordering = ("-created_at",)
        indexes = (models.Index(fields=["-created_at"], name="job_created_at"),)
        constraints = (
            models.CheckConstraint(
                name="job_state_is_known", condition=models.Q(state__in=("waiting", "done", "failed"))
            ),
            models.CheckConstraint(
                name="job_finished_unless_waiting",
                condition=models.Q(state="waiting", finished_at=None)
                | (~models.Q(state="waiting") & models.Q(finished_at__isnull=False)),
            ),
            models.CheckConstraint(name="job_failed_has_reason", condition=~models.Q(state="failed", reason="")),
        )

    def __str__(self):
        return f"{self.first} + {self.second} ({self.state})"

    def get_absolute_url(self):
        """The job's own page."""
        return reverse("jobs:job", args=[self.pk])

    @property
    def waiting(self):
        """Whether the result is still to come."""
        return self.state == self.State.WAITING

    @property
    def seconds(self):
        """How long the job took. Two machines' clocks are compared, so small and negative is nothing to show."""
        return max((self.finished_at - self.created_at).total_seconds(), 0) if self.finished_at else None

    def finish(self, state, *, finished_at=None, **values):
        """End a waiting job; true for exactly one caller, however many try at once."""
        ended = Job.objects.filter(pk=self.pk, state=self.State.WAITING).update(
            state=state, finished_at=finished_at or timezone.now(), **values
        )
        self.refresh_from_db()
        return bool(ended)
