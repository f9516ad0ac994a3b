"""What flows: the batch, and the record of what taps saw."""
