import hashlib
import hmac

from django.conf import settings


def sign(text):
    return hmac.new(settings.SIGNING_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
