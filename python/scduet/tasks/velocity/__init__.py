"""RNA velocity: moments, models, graph of cells, judgement."""
