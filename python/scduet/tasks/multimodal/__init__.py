"""Proteins and peaks beside RNA."""
