"""Training objectives of transformers."""
