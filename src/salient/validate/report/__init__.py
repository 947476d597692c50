"""The report of a validation: a page, Markdown for a pull request, JSON for programs."""
