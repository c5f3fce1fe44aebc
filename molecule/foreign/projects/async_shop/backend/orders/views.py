from asgiref.sync import sync_to_async
from django.http import JsonResponse
from django.shortcuts import aget_object_or_404, redirect
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt

from .models import Order, Tick
from .signatures import sign
from .tasks import confirm


@csrf_exempt
async def index(request):
    """A POST with an `item` orders it."""
    if request.method == "POST":
        order = await Order.objects.acreate(item=request.POST["item"])
        await sync_to_async(confirm.delay)(order.pk)
        return redirect("order", order.pk)
    orders = [reverse("order", args=[pk]) async for pk in Order.objects.order_by("pk").values_list("pk", flat=True)]
    return JsonResponse({"interface": request.scope["type"], "orders": orders})


async def order(request, pk):
    order = await aget_object_or_404(Order, pk=pk)
    return JsonResponse(
        {
            "item": order.item,
            "valid": order.signature == sign(order.item),
            "confirmed_by": order.confirmed_by,
            "mailed_by": order.mailed_by,
        }
    )


async def ticks(request):
    """When the schedule ticked, and on which host."""
    found = Tick.objects.order_by("at").values_list("at", "host")
    return JsonResponse({"ticks": [[at.timestamp(), host] async for at, host in found]})
