import socket

import psycopg2
from celery import shared_task
from django.db.models import Sum

from .models import Booking


@shared_task
def book(amount):
    """Book an amount; the new balance, and where it was booked by which driver."""
    Booking.objects.create(amount=amount)
    balance = Booking.objects.aggregate(balance=Sum("amount"))["balance"]
    return {"balance": balance, "host": socket.gethostname(), "driver": psycopg2.__version__}
