"""Cells that a model makes, and how they differ from real ones."""
