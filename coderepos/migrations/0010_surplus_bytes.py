"""Purges know what copies take that were evicted, or are on another machine by now, until they are removed."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("coderepos", "0009_stored_packs")]

    operations = [
        migrations.AddField(
            model_name="purge",
            name="surplus_bytes",
            field=models.PositiveBigIntegerField(db_default=0, default=0),
        ),
    ]
