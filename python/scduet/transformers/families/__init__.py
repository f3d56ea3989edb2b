"""What each published transformer adds to the encoder."""
