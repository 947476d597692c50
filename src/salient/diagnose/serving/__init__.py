"""What a server was told: files and command lines."""
