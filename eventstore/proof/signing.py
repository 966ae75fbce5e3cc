"""Signatures of anchors, by Ed25519 (RFC 8032): who keeps the public key can tell an anchor that was made up.

What is signed is `runfold.anchor.v1`, the log's id, the position in decimal and the digest in hexadecimal, each on a
line. Keys are PEM files, as `openssl genpkey -algorithm ed25519` makes them; `cryptography` is the extra `sign`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runfold.errors import BadRequest, InvalidSetting

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_TITLE = "runfold.anchor.v1"


class Signed(Protocol):
    """What is signed of an anchor."""

    @property
    def position(self) -> int: ...

    @property
    def digest(self) -> str: ...


class Signer:
    """A private key. Raises InvalidSetting where the file holds none, BadRequest where the extra is missing."""

    def __init__(self, path: Path) -> None:
        self._key = _private(path)

    def sign(self, anchor: Signed, log_id: str) -> str:
        """The signature in hexadecimal."""
        return self._key.sign(_content(anchor, log_id)).hex()


class Verifier:
    """A public key. Raises InvalidSetting where the file holds none, BadRequest where the extra is missing."""

    def __init__(self, path: Path) -> None:
        self._key = _public(path)

    def is_signed(self, anchor: Signed, log_id: str, signature: str) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            self._key.verify(bytes.fromhex(signature), _content(anchor, log_id))
        except (InvalidSignature, ValueError):
            return False
        return True


def _content(anchor: Signed, log_id: str) -> bytes:
    return "\n".join((_TITLE, log_id, str(anchor.position), anchor.digest)).encode()


def _private(path: Path) -> "Ed25519PrivateKey":
    _check_installed()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, TypeError, ValueError) as error:
        raise _no_key(path, "private", str(error)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _no_key(path, "private", "it is of another kind")
    return key


def _public(path: Path) -> "Ed25519PublicKey":
    _check_installed()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _no_key(path, "public", str(error)) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _no_key(path, "public", "it is of another kind")
    return key


def _no_key(path: Path, kind: str, why: str) -> InvalidSetting:
    making = "`openssl genpkey -algorithm ed25519 -out key.pem` makes a private one"
    if kind == "public":
        making = "`openssl pkey -in key.pem -pubout -out public.pem` takes it from the private one"
    return InvalidSetting(f"`{path}` holds no {kind} Ed25519 key: {why}", hint=making)


def _check_installed() -> None:
    try:
        import cryptography  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ModuleNotFoundError:
        raise BadRequest("signatures need `cryptography`", hint="`pip install 'runfold[sign]'`") from None
