"""What a network is fed: pixels and features, made once, checked whenever they are read, and turned into views."""
