"""Models of spatial data."""
