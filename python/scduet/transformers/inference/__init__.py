"""What trained transformers are asked."""
