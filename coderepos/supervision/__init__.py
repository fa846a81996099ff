"""Watches a cluster of workers from outside, and ends it when it can't do what it is there for."""
