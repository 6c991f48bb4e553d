"""What a generator's channels mean, and how labelled volumes are drawn from it."""
