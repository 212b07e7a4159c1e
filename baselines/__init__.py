"""The methods of the papers, one file a family, registered as any plugin is."""
