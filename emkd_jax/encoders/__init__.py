"""Sequence encoders: items -> hidden states. They know nothing of the ensemble they are in."""
