"""The admin: what is connected, what its jobs did, who did what, all of it to read; members of projects to edit.

Repositories are connected and cloned through the services alone, so rows can neither be added nor changed here, and
nothing here ever loads a sealed token.
"""

from __future__ import annotations

from coderepos.admin.audit import AuditEntryAdmin
from coderepos.admin.base import ModelAdmin
from coderepos.admin.jobs import JobAdmin
from coderepos.admin.members import MembershipInline, ProjectMembershipAdmin
from coderepos.admin.nodes import NodeAdmin
from coderepos.admin.repositories import CodeRepositoryAdmin

__all__ = [
    "AuditEntryAdmin",
    "CodeRepositoryAdmin",
    "JobAdmin",
    "MembershipInline",
    "ModelAdmin",
    "NodeAdmin",
    "ProjectMembershipAdmin",
]
