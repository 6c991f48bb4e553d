"""The use case *audit*: a synthetic set and the people behind its generator in, what it leaks out."""

from __future__ import annotations

from medidiff.audit.options import AuditOptions, AuditResult
from medidiff.audit.use_case import audit

__all__ = ["AuditOptions", "AuditResult", "audit"]
