"""Where the output of a run stands in its folder."""

from pathlib import Path


def output_path(data: Path, run_id: str) -> Path:
    """What its commands wrote, turn after turn as they ended."""
    return data / "runs" / run_id / "output.log"


def part_path(data: Path, run_id: str, step: str, attempt: int) -> Path:
    """What the command of a step writes while it is at work, for several may be; `output.log` takes it at its end."""
    import hashlib  # Not needed by commands that only read.

    # Any text is the name of a step, and not any is that of a file.
    name = hashlib.sha256(step.encode()).hexdigest()[:16]
    return data / "runs" / run_id / "turns" / f"{attempt}-{name}.log"
