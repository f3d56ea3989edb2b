"""Metrics of integrated embeddings."""
