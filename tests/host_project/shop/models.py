"""The project model of the host, with a key that is an integer."""

from __future__ import annotations

from django.db import models


class Project(models.Model):
    """A project that has more to it than a name."""

    title = models.CharField(max_length=100)
    budget = models.DecimalField(max_digits=10, decimal_places=2, default=0)

    def __str__(self) -> str:
        return self.title
