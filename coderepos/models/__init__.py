"""State: projects, members, repositories, jobs, nodes, audit trail; each state transition is one compare-and-swap."""

from __future__ import annotations

from coderepos.models.audit import AuditEntry, AuditEvent
from coderepos.models.clone_transitions import CloneStatus
from coderepos.models.database import alias, tables_exist
from coderepos.models.flow import Flow
from coderepos.models.job import Job
from coderepos.models.job_states import JobKind, JobState, LeaseLost
from coderepos.models.node import Node, NodeState
from coderepos.models.probe_slot import ProbeSlot
from coderepos.models.project import ProjectMembership, Role, all_projects, get_project_model
from coderepos.models.purge import Purge
from coderepos.models.repository import CodeRepository
from coderepos.models.stored_pack import PackState, StoredPack
from coderepos.models.token_status import TokenStatus

__all__ = [
    "AuditEntry",
    "AuditEvent",
    "CloneStatus",
    "CodeRepository",
    "Flow",
    "Job",
    "JobKind",
    "JobState",
    "LeaseLost",
    "Node",
    "NodeState",
    "PackState",
    "ProbeSlot",
    "ProjectMembership",
    "Purge",
    "Role",
    "StoredPack",
    "TokenStatus",
    "alias",
    "all_projects",
    "get_project_model",
    "tables_exist",
]
