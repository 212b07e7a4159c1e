"""From scores to numbers: predictions by image id, a protocol's rules applied to them, and the choice of an epoch."""
