"""Whole heads by a coarse generator and a super-resolution prior: the data of the one, and what the two are worth."""
