"""What teachers said, on disk: how it is packed, where it lies, and which run it belongs to."""
