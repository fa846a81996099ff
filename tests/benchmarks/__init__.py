"""Benchmarks; not collected by pytest."""

from __future__ import annotations
