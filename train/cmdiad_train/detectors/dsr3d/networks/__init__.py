"""Networks of 3DSR: autoencoder, restriction of codes, drawing of the object, comparison."""
