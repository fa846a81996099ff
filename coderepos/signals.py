"""What a host can listen to; receivers run in the process that made the change, after its transaction."""

from __future__ import annotations

from django.dispatch import Signal

repository_connected = Signal()
"""Sent with ``repository_id`` and ``job_id`` when a repository was accepted and its clone is queued."""

repository_cloned = Signal()
"""Sent with ``repository_id``, ``job_id`` and ``sandbox_path`` when a version was published."""

repository_cancelled = Signal()
"""Sent with ``repository_id`` and ``job_id`` when a job was cancelled by request.

``repository_failed`` is not sent for it. A repository that was COMPLETED before the job stays so.
"""

repository_failed = Signal()
"""Sent with ``repository_id``, ``job_id`` and ``error_code`` when a job failed for good.

A repository that was COMPLETED before the job stays so, with the version that it had.
"""
