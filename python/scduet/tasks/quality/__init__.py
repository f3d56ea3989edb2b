"""How good a result is, beside simple baselines."""
