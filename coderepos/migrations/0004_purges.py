"""What machines still have to remove, and the event of a cancelled job."""

from __future__ import annotations

import uuid

import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("coderepos", "0003_terms_of_queue_and_trail"),
    ]

    operations = [
        migrations.AlterField(
            model_name="auditentry",
            name="event",
            field=models.TextField(
                choices=[
                    ("connected", "Connected"),
                    ("connect_rejected", "Connect Rejected"),
                    ("changed", "Changed"),
                    ("cancelled", "Cancelled"),
                    ("denied", "Denied"),
                    ("token_opened", "Token Opened"),
                    ("token_replaced", "Token Replaced"),
                    ("token_refused", "Token Refused"),
                    ("token_dropped", "Token Dropped"),
                    ("decrypt_failed", "Decrypt Failed"),
                    ("rekeyed", "Rekeyed"),
                    ("cleaned", "Cleaned"),
                    ("disconnected", "Disconnected"),
                ]
            ),
        ),
        migrations.CreateModel(
            name="Purge",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("repository_id", models.UUIDField()),
                ("project_key", models.TextField()),
                ("node", models.TextField()),
                ("size_bytes", models.PositiveBigIntegerField(default=0)),
                ("request_id", models.UUIDField(default=uuid.uuid4)),
                ("settles_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("tried_at", models.DateTimeField(null=True)),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                "db_table": "code_repo_purges",
                "default_permissions": (),
                "base_manager_name": "objects",
                "indexes": [models.Index(fields=["node", "tried_at"], name="code_repo_purges_node")],
                "constraints": [
                    models.UniqueConstraint(fields=("repository_id", "node"), name="code_repo_purges_once")
                ],
            },
        ),
    ]
