"""Factor transfer: a paraphraser of the teacher, a translator of the student."""
