"""What transformers are trained for."""
