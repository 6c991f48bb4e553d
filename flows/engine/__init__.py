"""What the flows stand on: surroundings, state, keys, steps that are done once, runners, reconciliation."""
