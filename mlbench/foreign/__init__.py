"""Files of scores that others made: read within bounds, and refused in one line where they do not hold."""
