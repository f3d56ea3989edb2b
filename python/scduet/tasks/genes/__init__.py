"""What models say of genes."""
