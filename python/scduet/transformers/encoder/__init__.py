"""The encoder that the transformers share, and what is added to it."""
