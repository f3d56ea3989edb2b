"""What is done with transformers."""
