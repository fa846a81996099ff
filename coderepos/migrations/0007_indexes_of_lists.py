"""Indexes for every list, filter and order that the API and the admin offer, and for what workers look for."""

from __future__ import annotations

from django.db import migrations, models
from django.db.models.functions import Coalesce


class Migration(migrations.Migration):
    dependencies = [("coderepos", "0006_fair_queue")]

    operations = [
        migrations.RemoveIndex(
            model_name="auditentry",
            name="code_repo_audit_created",
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["-created_at", "-id"], name="code_repo_audit_newest"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["event", "-created_at"], name="code_repo_audit_event"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["actor_name", "-created_at"], name="code_repo_audit_actor"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["job_id"], name="code_repo_audit_job"),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["-created_at", "id"], name="code_repos_created"),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["updated_at"], name="code_repos_updated"),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["git_url"], name="code_repos_url"),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(
                Coalesce(
                    "repository_size_mb",
                    models.Value(-1),
                    output_field=models.DecimalField(decimal_places=2, max_digits=12),
                ),
                models.F("id"),
                name="code_repos_size_or_least",
            ),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(
                Coalesce(
                    "repository_size_mb",
                    models.Value(100000000),
                    output_field=models.DecimalField(decimal_places=2, max_digits=12),
                ),
                models.F("id"),
                name="code_repos_size_or_most",
            ),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["platform", "-created_at"], name="code_repos_platform"),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["node", "clone_status", "repository_size_mb"], name="code_repos_node_sizes"),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(
                condition=models.Q(("error_code", ""), _negated=True),
                fields=["error_code", "-created_at"],
                name="code_repos_error",
            ),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(fields=["has_token", "token_accepted", "token_expires_at"], name="code_repos_token"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                Coalesce("next_attempt_at", "created_at"),
                models.F("id"),
                condition=models.Q(("state", "QUEUED")),
                name="code_repo_jobs_oldest_due",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["heartbeat_at"], name="code_repo_jobs_heartbeat"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["-created_at", "id"], name="code_repo_jobs_created"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["state", "-created_at"], name="code_repo_jobs_state"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["node", "-created_at"], name="code_repo_jobs_node"),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("error_code", ""), _negated=True),
                fields=["error_code", "-created_at"],
                name="code_repo_jobs_error",
            ),
        ),
    ]
