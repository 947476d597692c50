"""A server's log, read for causes."""
