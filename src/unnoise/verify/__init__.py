"""What a paper claims, measured: exact checks, then experiments on real data, each with a verdict."""

from .claims import Absent, Check, Claim, Finding, check, claim, untestable

__all__ = ["Absent", "Check", "Claim", "Finding", "check", "claim", "untestable"]
