"""The use case *evaluate*: a synthetic set and real people in, how good the set is out."""

from medidiff.evaluate.options import EvaluateOptions, EvaluateResult, UtilityOptions
from medidiff.evaluate.use_case import evaluate

__all__ = ["EvaluateOptions", "EvaluateResult", "UtilityOptions", "evaluate"]
