"""Records of several stores brought together, checked against each other, and brought over from earlier harnesses."""
