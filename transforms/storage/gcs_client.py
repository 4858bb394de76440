"""Google's client: one pooled client per process, how it repeats requests, what its errors say.

Beam's own filesystem opens a client for each file: three requests and two connections an image.
Requests that fail for a passing reason (429, 5xx, a lost connection, a body cut short) are tried
again with growing pauses for `protocol.RETRY_SECONDS`; all of them may be repeated without harm.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from imagecensus.transforms.storage import protocol
from imagecensus.transforms.storage.protocol import ChangedError, StorageError, as_sentence

SCHEME = "gs://"


def split_bucket(uri: str) -> tuple[str, str]:
    """('bucket', 'object/name') of a gs:// uri."""
    bucket, _, name = uri[len("gs://") :].partition("/")
    if not bucket:
        raise StorageError(f"{uri}: names no bucket; write gs://BUCKET/PREFIX")
    return bucket, name


@functools.cache
def bucket_client() -> Any:
    """The one client of this process; its connections are kept and shared by all threads.

    Raises StorageError at once where there are no credentials.
    """
    import google.auth.credentials
    import google.auth.exceptions
    from google.cloud import storage
    from requests.adapters import HTTPAdapter

    if os.environ.get("STORAGE_EMULATOR_HOST"):
        client = storage.Client(
            project="emulator", credentials=google.auth.credentials.AnonymousCredentials()
        )
    else:
        if not credentials_at_hand():
            raise _no_credentials("none found")
        try:
            client = storage.Client(project=os.environ.get("GOOGLE_CLOUD_PROJECT", "none"))
        except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise _no_credentials(str(error)) from None
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=protocol.POOL_CONNECTIONS)
    client._http.mount("https://", adapter)
    client._http.mount("http://", adapter)
    # Proxies and certificates, as the environment names them, are looked up once: requests does so
    # for each request, a tenth of what one costs.
    settings = client._http.merge_environment_settings(
        client._connection.API_BASE_URL, {}, None, None, None
    )
    client._http.proxies, client._http.verify = settings["proxies"], settings["verify"]
    client._http.trust_env = False
    return client


def credentials_at_hand() -> bool:
    """Whether it is worth asking for credentials.

    google-auth looks for a metadata server for about 21 seconds where there is none: asked only
    on a machine of Google's, as its firmware or environment says.
    """
    from google.auth import _cloud_sdk
    from google.auth.compute_engine import _metadata

    sdk: Any = _cloud_sdk
    metadata: Any = _metadata
    variables = (
        "GOOGLE_APPLICATION_CREDENTIALS",
        "GCE_METADATA_HOST",
        "GCE_METADATA_IP",
        "K_SERVICE",
    )
    return (
        any(os.environ.get(name) for name in variables)
        or os.path.isfile(sdk.get_application_default_credentials_path())
        or metadata.detect_gce_residency_linux()
    )


def _no_credentials(reason: str) -> StorageError:
    return StorageError(
        f"gs://: no credentials ({reason}); run `gcloud auth application-default login` or set"
        " GOOGLE_APPLICATION_CREDENTIALS to a key file"
    )


def replaced(uri: str) -> ChangedError:
    return ChangedError(116, "the archive was replaced after it was listed", uri)


def bucket_object(uri: str) -> Any:
    bucket, name = split_bucket(uri)
    return bucket_client().bucket(bucket).blob(name)


def retry() -> Any:
    """How requests are repeated."""
    from google.cloud.storage.retry import DEFAULT_RETRY

    first, longest = protocol.RETRY_PAUSE
    pauses = DEFAULT_RETRY.with_delay(initial=first, maximum=longest, multiplier=2.0)
    return pauses.with_timeout(protocol.RETRY_SECONDS)


@contextlib.contextmanager
def plain_errors(uri: str) -> Iterator[None]:
    """Google's errors as FileNotFoundError, PermissionError or OSError of the uri."""
    import google.auth.exceptions
    import requests
    from google.api_core import exceptions

    try:
        yield
    except (exceptions.NotFound, exceptions.PreconditionFailed):
        raise FileNotFoundError(2, "no such object, or it was replaced", uri) from None
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise PermissionError(13, _sentence(error), uri) from None
    except exceptions.RetryError as error:
        cause = error.cause or error
        raise OSError(
            5, f"given up after {protocol.RETRY_SECONDS:g} s: {_sentence(cause)}", uri
        ) from None
    except (
        exceptions.GoogleAPIError,
        google.auth.exceptions.GoogleAuthError,
        requests.exceptions.RequestException,
    ) as error:
        raise OSError(5, _sentence(error), uri) from None


@contextlib.contextmanager
def storage_errors(uri: str, what: str) -> Iterator[None]:
    """What `plain_errors` raises, as a StorageError that says what could not be done."""
    with as_sentence(uri, what), plain_errors(uri):
        yield


def _sentence(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error or type(error).__name__).split())
