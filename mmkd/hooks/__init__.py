"""Hooks that every distillation run needs."""
