"""The working tree of a commit: which entries are written, and how."""
