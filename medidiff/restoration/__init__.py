"""From a scan and what was lost in it to a restored one: the plan in words, and the solver."""

from medidiff.restoration.plan import Plan, Stage, make_plan
from medidiff.restoration.solve import Restored, Settings, restore

__all__ = ["Plan", "Restored", "Settings", "Stage", "make_plan", "restore"]
