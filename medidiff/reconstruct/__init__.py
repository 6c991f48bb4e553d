"""The use case *reconstruct*: measurements in, a better scan out, in the same place, with a record of how.

Whatever can be said about the arguments and the header is said before torch is loaded.
"""

from medidiff.reconstruct.jobs import find_job
from medidiff.reconstruct.options import ReconstructOptions
from medidiff.reconstruct.use_case import OnPlan, ReconstructResult, reconstruct

__all__ = ["OnPlan", "ReconstructOptions", "ReconstructResult", "find_job", "reconstruct"]
