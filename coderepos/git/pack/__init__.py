"""Bounded ingest of a pack: scanned as it arrives, its deltas resolved, its index and repository written."""
