"""Object stores on servers of our own, for tests of what machines share: one speaks S3, one Azure."""

import base64
import hashlib
import hmac
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from email.utils import formatdate

import pytest

from deploy.loopback import free_port

MOTO = os.environ.get("RUNFOLD_TEST_S3", "")
AZURITE = os.environ.get("RUNFOLD_TEST_AZURE", "")
HERE = [*(["s3"] if MOTO else []), *(["azure"] if AZURITE else [])]
"""The kinds of server that were named to us."""
BUCKET = "runfold"
START_SECONDS = 60
# The account that every Azurite has, published with it; it opens nothing else.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_API = "2021-08-06"


@contextmanager
def serving(kind: str) -> Generator[str]:
    """The url of an empty bucket; the server's address and login are in the environment as long as it is there."""
    port = str(free_port())
    address = f"http://127.0.0.1:{port}"
    with pytest.MonkeyPatch.context() as patch:
        if kind == "s3":
            command = [MOTO, "-H", "127.0.0.1", "-p", port]
            patch.setenv("AWS_ENDPOINT_URL", address)
            patch.setenv("AWS_ALLOW_HTTP", "true")
            patch.setenv("AWS_REGION", "us-east-1")
            patch.setenv("AWS_ACCESS_KEY_ID", "a")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
            url = f"s3://{BUCKET}"
        else:
            command = [AZURITE, "--blobHost", "127.0.0.1", "--blobPort", port, "--inMemoryPersistence"]
            command += ["--skipApiVersionCheck", "--disableTelemetry"]
            patch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
            patch.setenv("AZURITE_BLOB_STORAGE_URL", address)
            patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", _ACCOUNT)
            patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", _KEY)
            url = f"az://{BUCKET}"
        with _started(command) as server:
            _make_bucket(_bucket_request(kind, address), server)
            yield url


@contextmanager
def _started(command: Sequence[str]) -> Generator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield server
        finally:
            server.terminate()


def _bucket_request(kind: str, address: str) -> urllib.request.Request:
    if kind == "s3":
        return urllib.request.Request(f"{address}/{BUCKET}", method="PUT")
    # https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
    date = formatdate(usegmt=True)
    signed = (
        f"PUT{12 * chr(10)}x-ms-date:{date}\nx-ms-version:{_API}\n/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
    )
    digest = hmac.new(base64.b64decode(_KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": date,
        "x-ms-version": _API,
        "Content-Length": "0",
        "Authorization": f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}",
    }
    url = f"{address}/{_ACCOUNT}/{BUCKET}?restype=container"
    return urllib.request.Request(url, headers=headers, method="PUT")


def _make_bucket(request: urllib.request.Request, server: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(request, timeout=START_SECONDS).close()
            return
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            # It does not listen yet.
            if time.monotonic() > ends or server.poll() is not None:
                raise
