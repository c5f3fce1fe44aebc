"""The form on the front page."""

import uuid

from django import forms

from .models import MOST_DELAY_SECONDS, MOST_WORK_SECONDS, Job

# Which of several posts of one form belong together is decided by what they say, too.
KEYS = uuid.UUID("5b2d9f0c-3f0b-4c53-9f6e-0a4d3c1f7a11")

MORE = (
    ("work_seconds", "Seconds of work", f"How long the worker takes over it: 0 to {MOST_WORK_SECONDS}."),
    ("delay_seconds", "Seconds of delay", f"How long it waits before a worker gets it: 0 to {MOST_DELAY_SECONDS}."),
)


class JobForm(forms.ModelForm):
    """Two words, and what may be wanted besides.

    A form that is posted twice makes one job: each form carries a key of its own, hidden.
    """

    key = forms.CharField(required=False, widget=forms.HiddenInput(attrs={"autocomplete": "off"}))

    class Meta:
        """The limits are the model's."""

        model = Job
        fields = ("first", "second", "work_seconds", "delay_seconds")
        widgets = dict.fromkeys(("first", "second"), forms.TextInput(attrs={"autocomplete": "off"}))

    def __init__(self, data=None, **options):
        """A new form gets a new key; what is left empty takes no time."""
        super().__init__(data, initial={"key": uuid.uuid4()}, label_suffix="", **options)
        for name, label, text in MORE:
            field = self.fields[name]
            field.required, field.label, field.help_text = False, label, text

    def words(self):
        """What everybody fills in."""
        return [self["first"], self["second"]]

    def more(self):
        """What few people want."""
        return [self["work_seconds"], self["delay_seconds"]]

    def more_is_used(self):
        """Whether somebody wants it, or got it wrong."""
        return any(field.errors or field.value() not in (None, "", 0, "0") for field in self.more())

    def clean_work_seconds(self):
        """None is no time."""
        return self.cleaned_data["work_seconds"] or 0

    def clean_delay_seconds(self):
        """None is no time."""
        return self.cleaned_data["delay_seconds"] or 0

    def content(self):
        """What `services.accept` wants to know."""
        return {name: self.cleaned_data[name] for name in self.Meta.fields}

    def idempotency_key(self):
        """One for each form and what was filled in: who goes back and changes a word wants another job."""
        key = self.cleaned_data["key"]
        if not key:
            return None
        return f"form-{uuid.uuid5(KEYS, repr((key, *self.content().values())))}"
