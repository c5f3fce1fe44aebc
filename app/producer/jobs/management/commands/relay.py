"""manage.py relay: the daemon that sends what was accepted."""

import signal

from django.core.management.base import BaseCommand

from jobs.relay import Relay


class Command(BaseCommand):
    """Send what is in the outbox, until SIGTERM."""

    help = "Send what is in the outbox to RabbitMQ, until SIGTERM. Runs beside each web server."

    def handle(self, *args, **options):
        """See jobs.relay."""
        relay = Relay()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, relay.stop)
        relay.run()
