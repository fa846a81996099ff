"""Clones by two clusters while processes die, servers restart and users delete things: ``python -m tests.chaos``."""
