"""Which file system a folder lies on, and whether it is one over a network, whose locks SQLite cannot rely on."""

import re
from pathlib import Path

from runfold.errors import InvalidSetting

MOUNTS = Path("/proc/mounts")
NETWORK = frozenset(
    [
        "afs",
        "afpfs",
        "beegfs",
        "ceph",
        "cifs",
        "davfs",
        "fuse.davfs2",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "smb3",
        "smbfs",
    ]
)

# What a host shares with its guest: no locks of the host's own, but one machine alone works there.
HOSTED = frozenset({"9p", "vboxsf", "virtiofs"})


def refuse_network(folder: Path) -> None:
    """Raises InvalidSetting for a folder whose file system cannot hold a log for several machines."""
    kind = file_system_of(folder)
    if kind in NETWORK:
        raise InvalidSetting(
            f"`{folder}` lies on a network file system ({kind}), where two processes can damage the log",
            hint="name one on a local disk with --data; machines share a log by --log nats://…; nothing was changed",
        )


def file_system_of(folder: Path, *, mounts: Path | None = None) -> str | None:
    """The type of the file system that holds a folder; None where the platform does not tell."""
    try:
        lines = (mounts or MOUNTS).read_text(errors="replace").splitlines()
    except OSError:
        return None
    found, depth = None, -1
    place = folder.absolute().resolve()
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Blanks and other awkward characters of a path stand there as three octal digits.
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1]))
        # A later mount at the same place hides the earlier one.
        if len(point.parts) >= depth and place.is_relative_to(point):
            found, depth = fields[2], len(point.parts)
    return found
