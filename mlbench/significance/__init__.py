"""Statistics that decide: which runs may be compared, and how far apart methods are over seeds, masks and images."""
