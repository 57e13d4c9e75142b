"""Samples and batches. Empty, because planning reads `listing` without torch."""
