"""Ingests a pack within limits: scans it as it arrives, resolves its deltas, writes index and bare repository."""
