"""Names to model folders: bundled, local, or on the Hub; import of official checkpoints; bundled weights."""
