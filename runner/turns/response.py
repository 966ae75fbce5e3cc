"""The agent's final message as `response.md`: beside the output for people, and as an artifact of the run."""

from pathlib import Path

from eventstore.objects import blobs
from runfold.events import ArtifactStored

FILE_NAME = "response.md"


def keep_response(data: Path, run_id: str, message: str) -> ArtifactStored:
    """Write it, and give the event that tells of it. Raises Unavailable, OSError."""
    content = message.encode()
    (data / "runs" / run_id / FILE_NAME).write_bytes(content)
    digest = blobs.put(data, content)
    return ArtifactStored(
        artifact_id=digest[:16], name=FILE_NAME, media_type="text/markdown", size_bytes=len(content), sha256=digest
    )
