"""Jobs in the admin site: to look at and to try again. A row changed by hand would no longer tell what happened."""

from django.contrib import admin

from . import services
from .models import Job, Outbox, ParkedTask


class LookOnly(admin.ModelAdmin):
    """Rows are made and changed by `jobs.services` only."""

    show_full_result_count = False  # which would count a million rows for a number that nobody needs

    def has_add_permission(self, request):
        """See above."""
        return False

    def has_change_permission(self, request, obj=None):
        """See above."""
        return False

    def has_delete_permission(self, request, obj=None):
        """See above."""
        return False


@admin.register(Job)
class JobAdmin(LookOnly):
    """A searchable list of jobs."""

    list_display = ("id", "first", "second", "state", "attempt", "worker", "created_at", "finished_at")
    list_filter = ("state",)
    search_fields = ("id",)  # what is searched is decided below
    search_help_text = "A part of a word, or the beginning of an id"
    actions = ("try_again",)

    def get_search_results(self, request, queryset, search_term):
        """As the pages search, with the index that there is for it."""
        return queryset.search(search_term.strip()) if search_term.strip() else queryset, False

    @admin.action(description="Try again those that failed or were parked", permissions=["view"])
    def try_again(self, request, queryset):
        """Everybody may who sees a job: so it is on its page."""
        count = sum(services.retry(job) for job in queryset)
        self.message_user(request, f"Jobs that wait again: {count}")


@admin.register(ParkedTask)
class ParkedTaskAdmin(LookOnly):
    """Dead letters that are no jobs. They may be thrown away."""

    list_display = ("task", "task_id", "queue", "reason", "parked_at", "retried_at")
    search_fields = ("task", "task_id", "reason")
    actions = ("try_again",)

    def has_delete_permission(self, request, obj=None):
        """Nobody else knows of them."""
        return admin.ModelAdmin.has_delete_permission(self, request, obj)

    @admin.action(description="Try again", permissions=["view"])
    def try_again(self, request, queryset):
        """Send them to the queue where they died."""
        count = sum(services.retry_parked(task) for task in queryset)
        self.message_user(request, f"Tasks that were sent again: {count}")


@admin.register(Outbox)
class OutboxAdmin(LookOnly):
    """What RabbitMQ has still to get."""

    list_display = ("task", "task_id", "queue", "due_at", "created_at")
