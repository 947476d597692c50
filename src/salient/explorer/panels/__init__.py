"""The data of each panel of the page."""
