"""Predictions made elsewhere: read without trust, checked, scored here, and recorded as submitted, not reproduced."""
