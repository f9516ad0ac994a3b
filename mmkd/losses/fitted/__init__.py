"""Parts of losses that are fitted to a frozen teacher before training, and frozen themselves."""
