"""The job: PostgreSQL's row is the truth about it. What is to be sent, and what nobody could do, are rows as well."""

import re
import uuid
from datetime import timedelta

from django.conf import settings
from django.contrib.postgres.indexes import GinIndex, OpClass
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now, Upper
from django.urls import reverse
from django.utils import timezone

MOST_WORK_SECONDS = 30
MOST_DELAY_SECONDS = 3600


class JobQuerySet(models.QuerySet):
    """Questions that more than one page asks."""

    def search(self, text):
        """The jobs with this text in a word or in the result, in upper or lower case, or with an id that begins so."""
        found = Q(first__icontains=text) | Q(second__icontains=text)
        if len(pieces := text.split()) > 1:
            # The result has no index of its own: its longest piece is found in the words, which it is made of.
            longest = max(pieces, key=len)
            near = Q(first__icontains=longest) | Q(second__icontains=longest) if len(longest) > 2 else Q()
            found |= Q(result__icontains=text) & near
        digits = text.replace("-", "").lower()
        if re.fullmatch(r"[0-9a-f]{4,32}", digits):
            found |= Q(pk__range=(uuid.UUID(digits.ljust(32, "0")), uuid.UUID(digits.ljust(32, "f"))))
        return self.filter(found)


class Job(models.Model):
    """Two words to join, and what became of them. Its id is also its task's id. Only `services` writes it."""

    class State(models.TextChoices):
        """A job waits until it ends. One that failed or was parked can be made to wait again: that is a retry."""

        WAITING = "waiting"
        DONE = "done"
        FAILED = "failed"
        PARKED = "parked"

    # What can be tried again.
    ENDED_BADLY = (State.FAILED, State.PARKED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    first = models.CharField(max_length=200)
    second = models.CharField(max_length=200)
    work_seconds = models.PositiveSmallIntegerField(
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MOST_WORK_SECONDS)],
        help_text="How long the worker takes over it, in seconds.",
    )
    delay_seconds = models.PositiveIntegerField(
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MOST_DELAY_SECONDS)],
        help_text="How long it waits before a worker gets it, in seconds.",
    )
    idempotency_key = models.CharField(max_length=255, unique=True, null=True, blank=True, editable=False)
    attempt = models.PositiveSmallIntegerField(
        default=1, db_default=1, editable=False, help_text="Counts the retries, from 1."
    )
    state = models.CharField(max_length=7, choices=State, default=State.WAITING)
    result = models.TextField(blank=True)
    reason = models.TextField(blank=True, help_text="Why the job failed.")
    worker = models.CharField(max_length=255, blank=True, help_text="The host whose worker executed the task.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    due_at = models.DateTimeField(
        default=timezone.now, db_default=Now(), editable=False, help_text="When a worker should get it."
    )
    started_at = models.DateTimeField(null=True, blank=True, help_text="When the worker began.")
    finished_at = models.DateTimeField(null=True, blank=True)
    resends = models.PositiveSmallIntegerField(
        default=0, db_default=0, editable=False, help_text="How often it was sent again in this attempt, unasked."
    )
    filer = models.CharField(
        max_length=255,
        default="",
        db_default="",
        editable=False,
        help_text="The host whose results file gets its line.",
    )
    filed = models.BooleanField(
        default=False, db_default=False, editable=False, help_text="Whether the results file has its line."
    )

    objects = JobQuerySet.as_manager()

    class Meta:
        """The newest first; no state that means nothing."""

        ordering = ("-created_at", "-id")
        indexes = (
            # The list of all jobs; the same for those that are few among the many that are done.
            models.Index("created_at", "id", name="job_created"),
            models.Index("state", "created_at", "id", name="job_not_done", condition=~Q(state="done")),
            # The search, for three characters and more.
            GinIndex(
                OpClass(Upper("first"), "gin_trgm_ops"), OpClass(Upper("second"), "gin_trgm_ops"), name="job_words"
            ),
            # /results.txt; what a host has still to file; what may have to be sent again.
            models.Index("finished_at", "id", name="job_done", condition=Q(state="done")),
            models.Index("filer", "finished_at", name="job_unfiled", condition=Q(state="done", filed=False)),
            models.Index("due_at", name="job_waiting", condition=Q(state="waiting")),
        )
        constraints = (
            models.CheckConstraint(
                name="job_state_is_known", condition=Q(state__in=("waiting", "done", "failed", "parked"))
            ),
            models.CheckConstraint(
                name="job_finished_unless_waiting",
                condition=Q(state="waiting", finished_at=None) | (~Q(state="waiting") & Q(finished_at__isnull=False)),
            ),
            models.CheckConstraint(
                name="job_failed_has_reason", condition=~Q(state__in=("failed", "parked"), reason="")
            ),
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
    def ended_badly(self):
        """Whether it can be tried again."""
        return self.state in self.ENDED_BADLY

    @property
    def seconds(self):
        """How long the job took. Two machines' clocks are compared, so small and negative is nothing to show."""
        return max((self.finished_at - self.created_at).total_seconds(), 0) if self.finished_at else None


class Outbox(models.Model):
    """A task to be sent, written in the transaction that wants it sent; the relay deletes it when RabbitMQ has it."""

    task_id = models.CharField(max_length=255)
    job = models.ForeignKey(Job, models.CASCADE, null=True, related_name="outbox")
    task = models.CharField(max_length=255)
    args = models.JSONField(default=list)
    kwargs = models.JSONField(default=dict)
    headers = models.JSONField(default=dict)
    queue = models.CharField(max_length=255, default="service")
    due_at = models.DateTimeField(default=timezone.now, help_text="When a worker should get it.")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        """First in, first out."""

        ordering = ("id",)
        verbose_name_plural = "outbox"

    def __str__(self):
        return f"{self.task}[{self.task_id}]"

    @property
    def countdown(self):
        """How long a worker should not get it yet: seconds, or None."""
        left = self.due_at - timezone.now()
        return left.total_seconds() if left > timedelta() else None


class ParkedTask(models.Model):
    """A dead letter that is no job: a message that RabbitMQ gave up on, kept to be looked at and tried again."""

    task_id = models.CharField(max_length=255, blank=True)
    task = models.CharField(max_length=255, blank=True)
    args = models.JSONField(null=True)
    kwargs = models.JSONField(null=True)
    headers = models.JSONField(null=True)
    queue = models.CharField(max_length=255, blank=True, help_text="Where it died.")
    reason = models.TextField()
    body = models.BinaryField()
    digest = models.CharField(max_length=64, unique=True, help_text="Of the message, which may come twice.")
    parked_at = models.DateTimeField(default=timezone.now)
    retried_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        """The newest first."""

        ordering = ("-id",)

    def __str__(self):
        return f"{self.task or 'unknown'}[{self.task_id}]"

    @property
    def can_be_retried(self):
        """Whether it was not yet, is a task that could be read, and died in a queue that we know."""
        known = self.queue in [queue.name for queue in settings.CELERY_TASK_QUEUES]
        return bool(known and self.retried_at is None and self.task and self.args is not None)
