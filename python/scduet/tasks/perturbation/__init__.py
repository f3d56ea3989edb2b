"""Predicted responses to perturbations."""
