"""The first tables of the app."""

from __future__ import annotations

import uuid

import django.db.models.deletion
import django.db.models.functions.datetime
import django.db.models.manager
from django.conf import settings
from django.db import migrations, models

import coderepos.crypto.fields
from coderepos.conf import project_model_label
from coderepos.migrations._project import migration_of

# Hand-written: nothing is swappable, so that the migrations of a host name its own project model and never this app.
PROJECT_MODEL = project_model_label()


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
        migration_of(PROJECT_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Node",
            fields=[
                ("name", models.TextField(primary_key=True, serialize=False)),
                ("root_id", models.UUIDField(default=uuid.uuid4, editable=False)),
                ("marked_roots", models.JSONField(default=list, editable=False)),
                ("isolation_level", models.PositiveSmallIntegerField(default=0)),
                ("last_seen", models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), null=True)),
                ("upkeep_at", models.DateTimeField(editable=False, null=True)),
                ("swept_at", models.DateTimeField(editable=False, null=True)),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
            ],
            options={
                "db_table": "code_repo_nodes",
                "base_manager_name": "objects",
                "ordering": ("name",),
            },
        ),
        migrations.CreateModel(
            name="CodeRepository",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("git_url", models.TextField()),
                ("url_key", models.TextField(editable=False)),
                ("ref", models.TextField(blank=True, default="")),
                ("depth", models.PositiveIntegerField(blank=True, null=True)),
                ("username", models.TextField(blank=True, default="")),
                ("platform", models.TextField(default="generic", editable=False)),
                (
                    "token_ciphertext",
                    coderepos.crypto.fields.EncryptedTokenField(
                        kid_field="token_kid",
                        project_field="project",
                        origin_field="git_url",
                        origin_of="coderepos.git.url.origin_of",
                    ),
                ),
                ("token_kid", models.TextField(blank=True, editable=False)),
                ("has_token", models.BooleanField(default=True, editable=False)),
                ("token_accepted", models.BooleanField(editable=False, null=True)),
                ("token_expires_at", models.DateTimeField(editable=False, null=True)),
                ("estimated_size_mb", models.DecimalField(decimal_places=2, editable=False, max_digits=10, null=True)),
                ("size_source", models.TextField(default="probe", editable=False)),
                ("repository_size_mb", models.DecimalField(decimal_places=2, editable=False, max_digits=10, null=True)),
                (
                    "clone_status",
                    models.TextField(
                        choices=[
                            ("PENDING", "Pending"),
                            ("CLONING", "Cloning"),
                            ("COMPLETED", "Completed"),
                            ("FAILED", "Failed"),
                            ("CLEANING", "Cleaning"),
                            ("CLEANED", "Cleaned"),
                        ],
                        db_default="PENDING",
                        default="PENDING",
                        editable=False,
                    ),
                ),
                ("sandbox_path", models.TextField(editable=False, null=True)),
                ("version", models.TextField(default="", editable=False)),
                ("node", models.TextField(default="", editable=False)),
                ("commit_id", models.TextField(default="", editable=False)),
                ("ref_name", models.TextField(default="", editable=False)),
                ("substitutions", models.JSONField(default=dict, editable=False)),
                ("substituted_paths", models.JSONField(default=list, editable=False)),
                ("error_code", models.TextField(default="", editable=False)),
                ("error_message", models.TextField(default="", editable=False)),
                ("cloned_at", models.DateTimeField(editable=False, null=True)),
                (
                    "created_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                (
                    "updated_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False),
                ),
                (
                    "connected_by",
                    models.ForeignKey(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="code_repositories", to=PROJECT_MODEL
                    ),
                ),
            ],
            options={
                "verbose_name": "repository",
                "verbose_name_plural": "repositories",
                "db_table": "code_repos",
                "base_manager_name": "rows",
            },
            managers=[
                ("objects", django.db.models.manager.Manager()),
                ("rows", django.db.models.manager.Manager()),
            ],
        ),
        migrations.CreateModel(
            name="Job",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.TextField(
                        choices=[("CLONE", "Clone"), ("UPDATE", "Update"), ("CLEAN", "Clean")], default="CLONE"
                    ),
                ),
                (
                    "state",
                    models.TextField(
                        choices=[
                            ("QUEUED", "Queued"),
                            ("RUNNING", "Running"),
                            ("SUCCEEDED", "Succeeded"),
                            ("FAILED", "Failed"),
                            ("CANCELLED", "Cancelled"),
                        ],
                        db_default="QUEUED",
                        default="QUEUED",
                    ),
                ),
                ("attempt", models.PositiveSmallIntegerField(default=0)),
                ("max_attempts", models.PositiveSmallIntegerField(default=4)),
                ("next_attempt_at", models.DateTimeField(null=True)),
                ("lease_token", models.UUIDField(null=True)),
                ("lease_until", models.DateTimeField(null=True)),
                ("heartbeat_at", models.DateTimeField(null=True)),
                ("rung_at", models.DateTimeField(null=True)),
                ("node", models.TextField(default="")),
                ("isolation_level", models.PositiveSmallIntegerField(null=True)),
                ("progress", models.JSONField(default=dict)),
                ("result", models.JSONField(default=dict)),
                ("error_code", models.TextField(default="")),
                ("error_message", models.TextField(default="")),
                ("bytes_received", models.PositiveBigIntegerField(default=0)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "repository",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="jobs", to="coderepos.coderepository"
                    ),
                ),
            ],
            options={
                "db_table": "code_repo_jobs",
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="ProjectMembership",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "role",
                    models.TextField(
                        choices=[("viewer", "Viewer"), ("developer", "Developer"), ("maintainer", "Maintainer")],
                        default="viewer",
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="code_repo_members", to=PROJECT_MODEL
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="code_repo_memberships",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "code_repo_members",
                "base_manager_name": "objects",
            },
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["project", "-created_at"], name="code_repos_project_created"),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["clone_status", "node"], name="code_repos_status_node"),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["token_kid"], name="code_repos_token_kid"),
        ),
        migrations.AddConstraint(
            model_name="coderepository",
            constraint=models.UniqueConstraint(
                fields=("project", "url_key", "ref"), name="code_repos_once_per_project"
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["state", "next_attempt_at"], name="code_repo_jobs_due"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["state", "lease_until"], name="code_repo_jobs_lease"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["repository", "-created_at"], name="code_repo_jobs_history"),
        ),
        migrations.AddConstraint(
            model_name="job",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state__in", ["QUEUED", "RUNNING"])),
                fields=("repository",),
                name="code_repo_jobs_one_open",
            ),
        ),
        migrations.AddConstraint(
            model_name="projectmembership",
            constraint=models.UniqueConstraint(fields=("project", "user"), name="code_repo_members_once"),
        ),
        migrations.CreateModel(
            name="AuditEntry",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "event",
                    models.TextField(
                        choices=[
                            ("connected", "Connected"),
                            ("rejected", "Rejected"),
                            ("changed", "Changed"),
                            ("denied", "Denied"),
                            ("token_opened", "Token Opened"),
                            ("replaced", "Replaced"),
                            ("refused", "Refused"),
                            ("dropped", "Dropped"),
                            ("decrypt_failed", "Decrypt Failed"),
                            ("rekeyed", "Rekeyed"),
                            ("cleaned", "Cleaned"),
                            ("disconnected", "Disconnected"),
                        ]
                    ),
                ),
                ("actor_id", models.TextField(default="")),
                ("actor_name", models.TextField(default="")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("project_id", models.TextField(default="")),
                ("repository_id", models.UUIDField(null=True)),
                ("job_id", models.UUIDField(null=True)),
                ("details", models.JSONField(default=dict)),
            ],
            options={
                "verbose_name": "audit entry",
                "verbose_name_plural": "audit trail",
                "db_table": "code_repo_audit",
                "default_permissions": ("view",),
                "base_manager_name": "objects",
                "indexes": [
                    models.Index(fields=["repository_id", "-created_at"], name="code_repo_audit_repository"),
                    models.Index(fields=["project_id", "-created_at"], name="code_repo_audit_project"),
                    models.Index(fields=["-created_at"], name="code_repo_audit_created"),
                ],
            },
        ),
    ]
