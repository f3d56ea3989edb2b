"""The published transformers, built on the shared encoder."""
