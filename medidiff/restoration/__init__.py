"""From a scan and what was lost in it to a restored one: the plan in words, the solver, and whole scans through it."""

from medidiff.restoration.jobs.base import Job, RepairJob, Scan, SliceJob, stage_record
from medidiff.restoration.plan import Plan, Stage, make_plan
from medidiff.restoration.repair import Denoise, Inpaint, Repair
from medidiff.restoration.run import Run, run_plan, unchanged
from medidiff.restoration.solve import Restored, Settings, restore

__all__ = [
    "Denoise", "Inpaint", "Job", "Plan", "Repair", "RepairJob", "Restored", "Run", "Scan", "Settings", "SliceJob",
    "Stage", "make_plan", "restore", "run_plan", "stage_record", "unchanged",
]  # fmt: skip
