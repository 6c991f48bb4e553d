"""One ``Job`` for each kind of measurement; ``base`` has what they have in common, and the jobs of a single scan."""
