"""The index by which clones are the first to go has their sizes too, so that what they take is summed up from it alone."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("coderepos", "0007_indexes_of_lists")]

    operations = [
        migrations.RemoveIndex(model_name="coderepository", name="code_repos_node_used"),
        migrations.AddIndex(
            model_name="coderepository",
            index=models.Index(
                condition=models.Q(("clone_status", "COMPLETED")),
                fields=["node", "last_used_at", "repository_size_mb"],
                name="code_repos_node_used",
            ),
        ),
    ]
