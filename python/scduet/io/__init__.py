"""Files: readers and writers that know nothing of models."""
