"""Durations, times and numbers as people read them."""

from django import template
from django.conf import settings
from django.utils import timezone
from django.utils.html import format_html

from jobs.status.questions import COUNTED

register = template.Library()


@register.simple_tag
def admin_is_known():
    """Whether pages may say where the admin site is: not if it was moved to where strangers do not look for it."""
    return settings.ADMIN_PATH == "admin/"


@register.filter
def duration(seconds):
    """Seconds in words: `0.8 ms`, `12 ms`, `1.24 s`, `2 min 3 s`, `1 h 0 min`; a number and its unit stay together."""
    if seconds is None:
        return ""
    return _duration(max(float(seconds), 0)).replace(" ", "\N{NO-BREAK SPACE}")


def _duration(seconds):
    if 0 < seconds < 0.00995:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + " s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


@register.filter
def moment(when):
    """A point in time, with the date unless it is today. A script turns it into the reader's own time."""
    today = when.date() == timezone.now().date()
    text = when.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
    return format_html('<time datetime="{}">{} UTC</time>', when.isoformat(timespec="milliseconds"), text)


@register.filter
def number(count):
    """A large number with commas; `10,000+` where counting stopped."""
    return f"{count:,}+" if count == COUNTED else f"{count:,}"
