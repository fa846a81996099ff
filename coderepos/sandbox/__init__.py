"""Read-only sandboxes on disk: one directory per repository, and all changes of its state."""
