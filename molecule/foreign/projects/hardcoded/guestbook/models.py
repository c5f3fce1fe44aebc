from django.db import models


class Entry(models.Model):
    text = models.CharField(max_length=200)
    picture = models.FileField(blank=True)
    task = models.CharField(max_length=100, blank=True)
    host = models.CharField(max_length=100, blank=True)

    def __str__(self):
        return self.text
