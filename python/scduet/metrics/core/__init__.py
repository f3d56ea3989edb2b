"""Shared by the metrics."""
