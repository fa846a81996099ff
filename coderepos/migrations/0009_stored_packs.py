"""What the storage for packs has, and machines that take no more jobs."""

from __future__ import annotations

import uuid

import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("coderepos", "0008_room_by_index"),
    ]

    operations = [
        migrations.CreateModel(
            name="StoredPack",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("repository_id", models.UUIDField()),
                ("version", models.TextField()),
                ("node", models.TextField()),
                (
                    "state",
                    models.TextField(
                        choices=[("UPLOADING", "Uploading"), ("STORED", "Stored"), ("LEAVING", "Leaving")],
                        default="UPLOADING",
                    ),
                ),
                ("pack_sha256", models.TextField(default="")),
                ("pack_bytes", models.PositiveBigIntegerField(default=0)),
                ("index_sha256", models.TextField(default="")),
                ("index_bytes", models.PositiveBigIntegerField(default=0)),
                ("manifest_sha256", models.TextField(default="")),
                ("tries", models.PositiveIntegerField(default=0)),
                ("due_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("error", models.TextField(default="")),
                ("created_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ("stored_at", models.DateTimeField(null=True)),
                ("left_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "code_repo_stored_packs",
                "default_permissions": (),
                "base_manager_name": "objects",
            },
        ),
        migrations.AddField(
            model_name="coderepository",
            name="stored_pack",
            field=models.UUIDField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name="node",
            name="released_at",
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name="node",
            name="state",
            field=models.TextField(
                choices=[("UP", "Up"), ("DRAINING", "Draining")], db_default="UP", default="UP", editable=False
            ),
        ),
        migrations.AlterField(
            model_name="job",
            name="kind",
            field=models.TextField(
                choices=[("CLONE", "Clone"), ("UPDATE", "Update"), ("CLEAN", "Clean"), ("RESTORE", "Restore")],
                default="CLONE",
            ),
        ),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(
                condition=models.Q(("clone_status", "COMPLETED"), ("stored_pack__isnull", True)),
                fields=["node"],
                name="code_repos_unstored",
            ),
        ),
        migrations.AddIndex(
            model_name="storedpack",
            index=models.Index(fields=["state", "due_at"], name="code_repo_stored_packs_due"),
        ),
        migrations.AddIndex(
            model_name="storedpack",
            index=models.Index(fields=["repository_id"], name="code_repo_stored_packs_repo"),
        ),
        migrations.AddConstraint(
            model_name="storedpack",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state", "LEAVING"), _negated=True),
                fields=("repository_id", "version"),
                name="code_repo_stored_packs_once",
            ),
        ),
    ]
