"""Statistics that decide: how far apart methods are, over training seeds, masks and test images."""
