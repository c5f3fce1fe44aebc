"""PostgreSQL itself tells the relays, when a transaction commits, that there is something in the outbox."""

from django.db import migrations

NOTIFY = """
    CREATE FUNCTION jobs_outbox_notify() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NOTIFY outbox; RETURN NULL; END $$;
    CREATE TRIGGER jobs_outbox_notify AFTER INSERT ON jobs_outbox EXECUTE FUNCTION jobs_outbox_notify();
"""
SILENCE = """
    DROP TRIGGER jobs_outbox_notify ON jobs_outbox;
    DROP FUNCTION jobs_outbox_notify;
"""


class Migration(migrations.Migration):
    dependencies = [("jobs", "0002_outbox")]

    operations = [migrations.RunSQL(NOTIFY, SILENCE)]
