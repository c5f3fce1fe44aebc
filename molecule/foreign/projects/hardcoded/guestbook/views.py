from celery.result import AsyncResult
from django import forms
from django.core.cache import cache
from django.http import JsonResponse
from django.shortcuts import get_object_or_404, redirect, render

from .models import Entry
from .tasks import shout


class EntryForm(forms.ModelForm):
    class Meta:
        model = Entry
        fields = ["text", "picture"]


def index(request):
    form = EntryForm(request.POST or None, request.FILES or None)
    if form.is_valid():
        entry = form.save()
        entry.task = shout.delay(entry.pk).id
        entry.save(update_fields=["task"])
        return redirect("entry", entry.pk)
    cache.add("visits", 0, timeout=None)
    visits = cache.incr("visits")
    return render(request, "guestbook/index.html", {"form": form, "entries": Entry.objects.all(), "visits": visits})


def entry(request, pk):
    entry = get_object_or_404(Entry, pk=pk)
    result = AsyncResult(entry.task)
    return JsonResponse(
        {
            "text": entry.text,
            "picture": entry.picture.url if entry.picture else "",
            "state": result.state,
            "shouted": result.result if result.successful() else "",
            "host": entry.host,
        }
    )
