"""What computes a model's answers: a registry, and one module an engine."""
