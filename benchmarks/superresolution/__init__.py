"""Thick slices restored to thin ones: classical methods, a plain regression and medidiff, on heads never trained on."""
