"""What a host can listen to.

Each is sent once, after the commit of what it tells, in the process that made the change: a web server, a worker or a
command. One that dies at that moment sends nothing. A receiver's exception is logged, and harms nothing. The sender is
``CodeRepository``; ids are UUIDs, the key of a project is whatever its model has.
"""

from __future__ import annotations

from django.dispatch import Signal

repository_connected = Signal()
"""Sent with ``repository_id``, ``project_id`` and ``job_id`` when a repository was accepted and its clone is queued."""

repository_cloned = Signal()
"""Sent with ``repository_id``, ``project_id``, ``job_id``, ``sandbox_path``, ``commit_id`` and ``version``.

A version was published.
"""

repository_failed = Signal()
"""Sent with ``repository_id``, ``project_id``, ``job_id``, ``error_code``, ``commit_id`` and ``version``.

A job failed for good. A repository that was COMPLETED before the job stays so, with the version that it had, which is
named; both are empty where there was none.
"""

repository_cancelled = Signal()
"""Sent with ``repository_id``, ``project_id``, ``job_id``, ``commit_id`` and ``version``.

A job was cancelled by request; ``repository_failed``, which has the same commit and version, is not sent for it. A
repository that was COMPLETED before the job stays so.
"""

repository_cleaned = Signal()
"""Sent with ``repository_id``, ``project_id``, ``commit_id`` and ``version``, of what was cloned last.

A repository was cleaned: no machine has a clone of it any more.
"""

repository_disconnected = Signal()
"""Sent with ``repository_id``, ``project_id``, ``commit_id`` and ``version`` when a repository was deleted.

By a call, in the admin, or along with its project; not where rows were deleted past the ORM. Machines remove its clone
afterwards.
"""
