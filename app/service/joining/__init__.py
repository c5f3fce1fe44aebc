"""Joining: the tasks."""
