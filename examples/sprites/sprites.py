"""Draws a sheet of eight frames, audits each, tries again with another strategy, and exports it with an atlas.

Everything is real and small: PNG files written with the standard library alone, an audit that measures the drawn
pixels, and one telemetry line for each thing that happens. `--story` says which of the drawings go wrong.
"""

import argparse
import json
import math
import signal
import struct
import zlib
from pathlib import Path
from typing import Any, NoReturn

FRAMES = 8
SIZE = 32
STRATEGIES = ("DEFAULT", "IDENTITY_RESCUE", "POSE_RESCUE")
COST_MICROS = 50_000  # What a drawing would cost where a model makes it.
GOOD = dict.fromkeys(range(1, FRAMES + 1), 1)
# How many attempts each frame takes; 0 is never.
STORIES: dict[str, dict[int, int]] = {
    "approved": {**GOOD, 3: 2},
    "partial": {**GOOD, 2: 3, 3: 2, 5: 0, 7: 2},
    "hopeless": dict.fromkeys(GOOD, 0),
}


def say(kind: str, **data: Any) -> None:
    print(json.dumps({"runfold": {"type": kind, **data}}), flush=True)


def give_up(code: str, message: str, *, path: str | None = None, kind: str = "system") -> NoReturn:
    say("agent_error", message=message, code=code, error_type=kind, diagnostic_path=path)
    raise SystemExit(1)


def draw(number: int, *, well: bool) -> list[bytearray]:
    """A blue ball that bounces through the frames; a bad drawing forgets most of it."""
    rows = [bytearray(4 * SIZE) for _ in range(SIZE)]
    centre = SIZE / 2, SIZE - 8 - 14 * abs(math.sin(math.pi * number / FRAMES))
    for y in range(SIZE):
        for x in range(SIZE):
            if math.dist((x, y), centre) <= (7 if well else 3):
                rows[y][4 * x : 4 * x + 4] = bytes((30, 90 + 16 * number, 220, 255))
    return rows


def painted(rows: list[bytearray]) -> int:
    return sum(1 for row in rows for x in range(SIZE) if row[4 * x + 3])


def write_png(path: Path, rows: list[bytearray]) -> int:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", len(rows[0]) // 4, len(rows), 8, 6, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    try:
        path.write_bytes(content)
    except OSError as error:
        give_up("SYS_WRITE_ERROR", f"{path} cannot be written: {error.strerror}", path=str(path))
    say("file_written", path=str(path), bytes=len(content))
    return len(content)


def make(number: int, good_at: int, folder: Path) -> list[bytearray] | None:
    """The frame, once the audit approves it; None where no strategy helps."""
    unit = f"frame-{number}"
    for attempt, strategy in enumerate(STRATEGIES, start=1):
        action = f"Generating frame {number} with {strategy}"
        say("unit_started", unit=unit, index=number, attempt=attempt, action=action, strategy=strategy)
        rows = draw(number, well=attempt == good_at)
        say("token_usage", input_tokens=100, output_tokens=400, cost_micros=COST_MICROS)
        say("unit_action", unit=unit, index=number, attempt=attempt, action=f"Auditing frame {number}")
        if painted(rows) >= 100:
            write_png(folder / f"{unit}.png", rows)
            say("unit_approved", unit=unit, index=number, attempt=attempt)
            return rows
        say("unit_rejected", unit=unit, index=number, attempt=attempt, reason=f"{painted(rows)} pixels, at least 100")
    return None


def export(frames: dict[int, list[bytearray]], folder: Path) -> None:
    sheet = [bytearray().join(rows[y] for rows in frames.values()) for y in range(SIZE)]
    write_png(folder / "blaze_idle.png", sheet)
    places = {f"frame-{number}": {"x": SIZE * at, "y": 0, "w": SIZE, "h": SIZE} for at, number in enumerate(frames)}
    atlas = json.dumps({"image": "blaze_idle.png", "frames": places}, indent=1)
    (folder / "blaze_idle.json").write_text(atlas)
    say("file_written", path=str(folder / "blaze_idle.json"), bytes=len(atlas))
    say("context_set", key="export_location", value=f"{folder.name}/")
    say("context_set", key="files", value=["blaze_idle.png", "blaze_idle.json"])
    say("context_set", key="validation_passed", value=all(painted(rows) >= 100 for rows in frames.values()))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--story", choices=sorted(STORIES), default="approved")
    arguments.add_argument("--fault", choices=("manifest", "api", "packer", "disk"))
    arguments.add_argument("--wait-at", type=int, default=0, help="Stay at the second attempt of this frame.")
    arguments.add_argument("--folder", type=Path, default=Path("export"))
    asked = arguments.parse_args()
    if asked.fault == "manifest":
        give_up("SYS_MANIFEST_INVALID", "the manifest names no frames", path="manifest.json")
    say("units_planned", total=FRAMES, unit_name="frame")
    if asked.fault == "api":
        give_up("DEP_API_UNAVAILABLE", "the image service does not answer", kind="dependency")
    if asked.fault != "disk":
        asked.folder.mkdir(parents=True, exist_ok=True)
    frames: dict[int, list[bytearray]] = {}
    for number, good_at in STORIES[asked.story].items():
        if number == asked.wait_at:
            unit, action = f"frame-{number}", f"Generating frame {number} with IDENTITY_RESCUE"
            say("unit_started", unit=unit, index=number, attempt=1, action=f"Generating frame {number}")
            say("unit_rejected", unit=unit, index=number, attempt=1)
            say("unit_started", unit=unit, index=number, attempt=2, action=action, strategy="IDENTITY_RESCUE")
            print("waiting", flush=True)
            signal.pause()
        rows = make(number, good_at, asked.folder)
        if rows is not None:
            frames[number] = rows
    if asked.fault == "packer":
        give_up("DEP_TEXTUREPACKER_FAIL", "the packer ended with 3", path="packer.log", kind="dependency")
    export(frames, asked.folder)


if __name__ == "__main__":
    main()
