"""The terms of job queues for a column, and events of the audit trail that say what they are about."""

from __future__ import annotations

from typing import Any, Final

from django.db import migrations, models

EVENTS: Final = {
    "rejected": "connect_rejected",
    "replaced": "token_replaced",
    "refused": "token_refused",
    "dropped": "token_dropped",
}


def rename_events(apps: Any, schema_editor: Any) -> None:
    """Rename the events of stored entries; models of migrations do not refuse to update them."""
    _rename(apps, schema_editor, EVENTS)


def restore_events(apps: Any, schema_editor: Any) -> None:
    """Give the events of stored entries their former names."""
    _rename(apps, schema_editor, {new: old for old, new in EVENTS.items()})


def _rename(apps: Any, schema_editor: Any, names: dict[str, str]) -> None:
    entries = apps.get_model("coderepos", "AuditEntry")._base_manager.using(schema_editor.connection.alias)
    for old, new in names.items():
        entries.filter(event=old).update(event=new)


class Migration(migrations.Migration):
    dependencies = [("coderepos", "0002_node_mount_points")]

    operations = [
        migrations.RenameField(model_name="job", old_name="rung_at", new_name="enqueued_at"),
        migrations.AlterField(
            model_name="auditentry",
            name="event",
            field=models.TextField(
                choices=[
                    ("connected", "Connected"),
                    ("connect_rejected", "Connect Rejected"),
                    ("changed", "Changed"),
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
        migrations.RunPython(rename_events, restore_events, hints={"model_name": "auditentry"}),
    ]
