"""One file per published system, what they have in common, and the registry of their variants."""
