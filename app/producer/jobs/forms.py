"""The form on the front page."""

from django import forms

from .models import Job


class JobForm(forms.ModelForm):
    """Two words, please."""

    class Meta:
        """The limits are the model's."""

        model = Job
        fields = ("first", "second")
        widgets = dict.fromkeys(fields, forms.TextInput(attrs={"autocomplete": "off"}))
