from django.urls import path
from orders import views

urlpatterns = [
    path("", views.index, name="index"),
    path("orders/<int:pk>/", views.order, name="order"),
    path("ticks/", views.ticks, name="ticks"),
]
