"""The two small graph IRs: float (what a network means) and integer (what is computed)."""
