import socket

from celery import shared_task

from .models import Entry


@shared_task
def shout(pk):
    """Shout an entry, and leave in its row the name of the host that did."""
    Entry.objects.filter(pk=pk).update(host=socket.gethostname())
    return Entry.objects.get(pk=pk).text.upper()
