"""The disk of this machine: its root, the room on it, what is published there, and what has to go."""
