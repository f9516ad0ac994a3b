"""Adversarial distillation: the loss and its critics."""
