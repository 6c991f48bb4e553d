"""Results in the shapes that others expect."""
