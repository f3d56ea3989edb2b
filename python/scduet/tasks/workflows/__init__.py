"""From data to a result in one call."""
