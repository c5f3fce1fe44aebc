"""The jobs app."""

from django.apps import AppConfig


class JobsConfig(AppConfig):
    """Registers the app's system checks."""

    name = "jobs"

    def ready(self):
        """Importing the module registers them."""
        from . import checks  # noqa: F401
