"""Training of the embedded model: a small CLIP, and a small FC-CLIP on top of it."""
