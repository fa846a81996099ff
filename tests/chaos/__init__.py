"""Many clones by two clusters while processes are killed and frozen and servers restart: ``python -m tests.chaos``."""
