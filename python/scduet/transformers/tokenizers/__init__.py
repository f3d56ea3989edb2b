"""From cells to tokens."""
