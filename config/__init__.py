"""The smallest host project of ``coderepos``: what the demo runs, and what a reader copies from."""
