"""What the runs' numbers say, and which runs may be held against each other."""
