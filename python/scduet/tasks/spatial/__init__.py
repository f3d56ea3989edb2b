"""Mixtures of cells, spots of a tissue or bulk samples, taken apart with a single-cell reference."""
