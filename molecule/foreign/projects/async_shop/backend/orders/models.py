from django.db import models


class Order(models.Model):
    item = models.CharField(max_length=200)
    signature = models.CharField(max_length=64, blank=True)
    confirmed_by = models.CharField(max_length=100, blank=True)
    mailed_by = models.CharField(max_length=100, blank=True)

    def __str__(self):
        return self.item


class Tick(models.Model):
    """One turn of the schedule."""

    at = models.DateTimeField(auto_now_add=True)
    host = models.CharField(max_length=100)

    def __str__(self):
        return f"{self.at} on {self.host}"
