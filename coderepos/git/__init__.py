"""Guarded fetching, bounded ingest and safe checkout of Git repositories; knows no Django and reads no settings."""
