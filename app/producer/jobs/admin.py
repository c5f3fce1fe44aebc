"""Jobs in the admin site: to look at, since a row changed by hand would no longer tell what happened."""

from django.contrib import admin

from .models import Job


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    """A searchable list of jobs."""

    list_display = ("id", "first", "second", "state", "worker", "created_at", "finished_at")
    list_filter = ("state", "worker")
    search_fields = ("id", "first", "second", "result")
    date_hierarchy = "created_at"

    def has_add_permission(self, request):
        """Only the form adds a job, because only the view sends its task."""
        return False

    def has_change_permission(self, request, obj=None):
        """See above."""
        return False
