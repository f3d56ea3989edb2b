"""Models of RNA velocity."""
