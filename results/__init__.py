"""Published tables as data (``papers/*.csv``) and our own run records (``runs/*.json``)."""
