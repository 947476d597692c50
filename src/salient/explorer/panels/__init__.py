"""What each panel of the page shows, as plain data."""
