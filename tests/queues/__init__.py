"""Tests of the adapters to queues."""
