"""Building blocks that the systems share. Their attribute names are those of the published checkpoints."""
