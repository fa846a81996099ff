"""Read-only sandboxes on disk: one directory per repository, and the only moves between its states."""
