"""The encoder shared by Geneformer, scGPT and scFoundation, and the parts specific to each."""
