"""The use case *synthesize*: a generator and a wish in, a labelled set of synthetic volumes out."""

from medidiff.synthesize.options import SynthesizeOptions, SynthesizeResult
from medidiff.synthesize.use_case import synthesize

__all__ = ["SynthesizeOptions", "SynthesizeResult", "synthesize"]
