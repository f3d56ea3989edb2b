"""Models of conditions, and models that generate cells."""
