"""Models of the field's history, for comparison: small, and beaten by simpler methods on the data we have."""
