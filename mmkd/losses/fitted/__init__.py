"""Parts that are fitted to a teacher before training, then frozen: what, to what, and when."""
