"""Members: how a student or a teacher is written, built and run."""
