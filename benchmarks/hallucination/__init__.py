"""Whether a small lesion survives thick slices, whether one is made up, and whether the interval map says so."""
