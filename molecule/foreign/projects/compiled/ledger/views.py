from celery.result import AsyncResult
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt

from .models import Booking
from .tasks import book


@csrf_exempt
def index(request):
    """A POST with an `amount` books it."""
    if request.method == "POST":
        return JsonResponse({"task": book.delay(int(request.POST["amount"])).id}, status=202)
    return JsonResponse({"bookings": Booking.objects.count()})


def booking(request, task):
    result = AsyncResult(str(task))
    return JsonResponse({"state": result.state, "result": result.result if result.successful() else None})
