"""What the Git host said of each token, and the audit trail."""

from __future__ import annotations

import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("coderepos", "0001_initial")]

    operations = [
        migrations.AddField(
            model_name="coderepository",
            name="token_accepted",
            field=models.BooleanField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name="coderepository",
            name="token_expires_at",
            field=models.DateTimeField(editable=False, null=True),
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
