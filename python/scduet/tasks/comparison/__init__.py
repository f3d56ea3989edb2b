"""Differences between groups of cells."""
