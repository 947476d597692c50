"""Receipts: what a checkpoint lost, as a file that anybody can check."""
