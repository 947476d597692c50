"""A config.json -> the exact shape of its model, by tables of what differs between families."""
