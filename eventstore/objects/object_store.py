"""The object store that machines share: objects under keys, made once or replaced whole, never half."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runfold.errors import InvalidSetting, Unavailable

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore as Backend

CHUNK_BYTES = 5 * 1024 * 1024


class ObjectStore:
    """One store, by its url; methods raise Unavailable where it does not answer."""

    def __init__(self, backend: "Backend") -> None:
        self._backend = backend

    def create(self, key: str, content: bytes | Path) -> bool:
        """Whether the object was made; one that is there already stays as it is."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            # One part: only so can a store refuse a key that it has.
            obstore.put(self._backend, key, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except Exception as error:
            raise _unavailable(key, error) from error
        return True

    def upload(self, key: str, chunks: Iterator[bytes]) -> None:
        """Make or replace an object that is too long for the memory."""
        import obstore

        try:
            obstore.put(self._backend, key, chunks)
        except Exception as error:
            raise _unavailable(key, error) from error

    def replace(self, key: str, content: bytes) -> None:
        import obstore

        try:
            obstore.put(self._backend, key, content, use_multipart=False)
        except Exception as error:
            raise _unavailable(key, error) from error

    def get(self, key: str) -> bytes | None:
        """The whole object; None where there is none."""
        chunks = self.stream(key)
        return None if chunks is None else b"".join(chunks)

    def stream(self, key: str) -> Iterator[bytes] | None:
        """The object in chunks; None where there is none."""
        import obstore

        try:
            found = obstore.get(self._backend, key)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise _unavailable(key, error) from error
        return _chunks(key, found)

    def has(self, key: str) -> bool:
        import obstore

        try:
            obstore.head(self._backend, key)
        except FileNotFoundError:
            return False
        except Exception as error:
            raise _unavailable(key, error) from error
        return True

    def remove(self, key: str) -> None:
        import obstore

        try:
            obstore.delete(self._backend, key)
        except FileNotFoundError:
            pass
        except Exception as error:
            raise _unavailable(key, error) from error

    def folders(self, prefix: str) -> list[str]:
        """The names that follow on `prefix/` as folders do, in order."""
        import obstore

        try:
            found: Any = obstore.list_with_delimiter(self._backend, prefix)  # pyright: ignore[reportUnknownMemberType]
        except Exception as error:
            raise _unavailable(prefix, error) from error
        names: list[str] = found["common_prefixes"]
        return sorted(name.rstrip("/").rpartition("/")[2] for name in names)


@lru_cache(maxsize=8)
def open_store(url: str) -> ObjectStore:
    """The store at s3://, gs://, az:// or file://; its credentials are in the environment. Raises InvalidSetting."""
    from obstore.store import from_url

    try:
        backend = from_url(url, mkdir=True) if url.startswith("file://") else from_url(url)
    except Exception as error:
        raise InvalidSetting(
            f"`{url}` names no store for blobs: {error}",
            hint="write it as s3://bucket/prefix, gs://bucket, az://container or file:///shared/folder",
        ) from error
    return ObjectStore(backend)


def _chunks(key: str, found: "GetResult") -> Iterator[bytes]:
    try:
        for chunk in found.stream(CHUNK_BYTES):
            yield bytes(chunk)
    except Exception as error:
        raise _unavailable(key, error) from error


def _unavailable(key: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"the shared store does not answer for `{key}`: {type(error).__name__} {error}".splitlines()[0],
        hint="its url, credentials and network; then try again",
    )
