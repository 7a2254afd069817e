"""From an image and sentences to masks."""
