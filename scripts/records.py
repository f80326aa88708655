"""The records of the scripts: those of the package, in scripts/results."""

from sb3_relax.tasks.records import ROOT, provenance, read_records, write_record

RESULTS = ROOT / "scripts" / "results"

__all__ = ["RESULTS", "ROOT", "provenance", "read_records", "write_record"]
