"""Looking at what trained models attend to."""
