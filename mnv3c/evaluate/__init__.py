"""Scores of float and integer networks on labelled images."""
