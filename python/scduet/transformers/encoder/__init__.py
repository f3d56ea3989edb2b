"""The shared encoder and its extensions."""
