"""A paper's table at its own scale: plans as data, what is at hand for them, the runs, and a report."""
