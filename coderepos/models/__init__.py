"""State: projects and members, repositories, jobs and nodes; every change of state is one compare-and-swap method."""

from __future__ import annotations

from coderepos.models.job import Job, JobKind, JobState, LeaseLost
from coderepos.models.node import Node
from coderepos.models.project import Project, ProjectMembership, Role, get_project_model
from coderepos.models.repository import CloneStatus, CodeRepository

__all__ = [
    "CloneStatus",
    "CodeRepository",
    "Job",
    "JobKind",
    "JobState",
    "LeaseLost",
    "Node",
    "Project",
    "ProjectMembership",
    "Role",
    "get_project_model",
]
