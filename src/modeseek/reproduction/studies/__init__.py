"""Experiments beyond the paper, one file each."""
