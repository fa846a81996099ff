"""Servers on loopback: real ones, and those that say whatever a test wants."""
