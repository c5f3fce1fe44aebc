from django.db import models


class Booking(models.Model):
    amount = models.IntegerField()

    def __str__(self):
        return str(self.amount)
