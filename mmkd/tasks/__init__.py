"""Tasks: what a model is for, which labels it learns from, and how to generate them."""
