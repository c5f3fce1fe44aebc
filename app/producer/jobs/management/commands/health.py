"""manage.py health: what each tier says, with the errors."""

import json

from django.core.management.base import BaseCommand, CommandError

from jobs import health


class Command(BaseCommand):
    """Ask each tier and print what it says as JSON, with the errors that the web page shows to staff only."""

    help = "Ask each tier, print what it says as JSON, and fail if one of them does."

    def handle(self, *args, **options):
        """Exit with 0 only if all is well."""
        report = health.report()
        self.stdout.write(json.dumps(report, indent=2))
        failing = [name for name, tier in report["tiers"].items() if tier["status"] != "ok"]
        if failing:
            raise CommandError(f"failing: {', '.join(failing)}")
