"""Relations: similarities and attention between places."""
