"""A module of a host that fails as it is imported."""

from __future__ import annotations

raise RuntimeError("a module of the host")
