"""Inference with trained transformers."""
