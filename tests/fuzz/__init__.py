"""Mutational fuzzing of the pack reader: ``python -m tests.fuzz.pack``."""
