"""Models of RNA counts."""
