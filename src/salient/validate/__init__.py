"""A checkpoint held against its reference: stages that measure, a verdict, a report."""
