"""The encoder that Geneformer, scGPT and scFoundation share, and what each adds to it."""
