"""Feature matching: tensors of two members, place by place."""
