"""Models of cells in which more than one kind of molecule was measured."""
