"""Readers and writers of files, independent of models."""
