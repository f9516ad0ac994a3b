"""QUEST: assignments to a vocabulary of the teacher's features."""
