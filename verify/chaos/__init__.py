"""Faults on a stack of several hosts, under load: what clients noticed, what was lost, how soon all was whole again."""
