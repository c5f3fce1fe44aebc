import datetime
import socket

from celery import current_task, shared_task
from django.utils import timezone

from .models import Order, Tick
from .signatures import sign


@shared_task
def confirm(pk):
    """Sign an order, and have a mail sent by the worker that does only that."""
    order = Order.objects.get(pk=pk)
    Order.objects.filter(pk=pk).update(signature=sign(order.item), confirmed_by=current_task.request.hostname)
    send_mail.delay(pk)


@shared_task
def send_mail(pk):
    Order.objects.filter(pk=pk).update(mailed_by=current_task.request.hostname)


@shared_task
def tick():
    Tick.objects.filter(at__lt=timezone.now() - datetime.timedelta(hours=1)).delete()
    Tick.objects.create(host=socket.gethostname())
