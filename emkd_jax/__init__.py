"""EMKD on JAX: an ensemble of sequence encoders taught by contrast and mutual distillation."""
