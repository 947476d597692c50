"""A checkpoint folder, looked at without running it."""
