"""T1 to FLAIR and back: learned from one person, measured on another."""
