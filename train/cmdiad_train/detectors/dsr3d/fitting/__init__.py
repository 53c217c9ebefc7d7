"""Training of 3DSR: the autoencoder on simulated pictures, then the networks of the object."""
