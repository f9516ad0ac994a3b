"""Features, hidden states and logits of two members, compared by their distance."""
