"""Who puts something into the outbox tells the relays after the commit, and no longer by it: see `services.WAKE`."""

from importlib import import_module

from django.db import migrations

before = import_module("jobs.migrations.0003_notify")


class Migration(migrations.Migration):
    dependencies = [("jobs", "0003_notify")]

    operations = [migrations.RunSQL(before.SILENCE, before.NOTIFY)]
