"""Clients for s3:// and Azure, one for each bucket and process, from the usual variables."""

from __future__ import annotations

import configparser
import functools
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from imagecensus.transforms.storage import protocol
from imagecensus.transforms.storage.locations import S3
from imagecensus.transforms.storage.protocol import StorageError

if TYPE_CHECKING:
    from obstore.store import AzureStore, ClientConfig, RetryConfig, S3Store

_AWS_SIGNS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
)
_AZURE_SIGNS = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_IDENTITY_ENDPOINT",
    "AZURE_MSI_ENDPOINT",
    "IDENTITY_ENDPOINT",
    "MSI_ENDPOINT",
    "AZURE_USE_AZURE_CLI",
    "AZURE_STORAGE_USE_EMULATOR",
)
_AZURE_MACHINE = "7783-7084-3265-9085-8269-3286-77"  # what Azure writes into its machines' firmware


@functools.cache
def client(scheme: str, bucket: str) -> S3Store | AzureStore:
    """The client of a bucket or container; its connections are shared by all threads.

    Args:
      bucket: as between "://" and the next slash of a uri.

    Raises StorageError at once where there are no credentials.
    """
    return _s3(bucket) if f"{scheme}://" in S3 else _azure(scheme, bucket)


def _s3(bucket: str) -> S3Store:
    from obstore.store import S3Store

    settings = _s3_settings()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3")  # the library knows the two other names
    if endpoint:
        settings["endpoint"] = endpoint
    return S3Store(bucket, **settings, client_options=_options(), retry_config=_retries())


def _s3_settings() -> dict[str, Any]:
    if _flag("AWS_SKIP_SIGNATURE") or _flag("AWS_NO_SIGN_REQUEST"):
        return {"skip_signature": True}
    if any(os.environ.get(name) for name in _AWS_SIGNS):
        return {}
    profile = _aws_profile()
    if profile:
        return profile
    if _firmware_says("Amazon EC2"):
        return {}
    raise StorageError(
        "s3://: no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ' (for single sign-on: eval "$(aws configure export-credentials --format env)"), or'
        " AWS_SKIP_SIGNATURE to true for a public bucket"
    )


def _aws_profile() -> dict[str, Any]:
    """Keys and region of the profile in ~/.aws, which the library does not read itself."""
    name = os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE") or "default"
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": ("~/.aws/credentials", name),
        "AWS_CONFIG_FILE": ("~/.aws/config", name if name == "default" else f"profile {name}"),
    }
    found: dict[str, str] = {}
    for variable, (usual, section) in files.items():
        parser = configparser.RawConfigParser()
        try:
            parser.read(os.path.expanduser(os.environ.get(variable) or usual), "utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue
        if parser.has_section(section):
            found = {**dict(parser.items(section)), **found}
    if not (found.get("aws_access_key_id") and found.get("aws_secret_access_key")):
        return {}
    settings = {
        "access_key_id": found["aws_access_key_id"],
        "secret_access_key": found["aws_secret_access_key"],
        "session_token": found.get("aws_session_token"),
        "endpoint": None if os.environ.get("AWS_ENDPOINT_URL") else found.get("endpoint_url"),
    }
    if not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        settings["region"] = found.get("region")
    return {key: value for key, value in settings.items() if value}


def _azure(scheme: str, bucket: str) -> AzureStore:
    from obstore.store import AzureStore

    container, _, host = bucket.rpartition("@") if "@" in bucket else (bucket, "", "")
    settings = _connection_string()
    if host:  # abfss://container@account.dfs.core.windows.net/
        settings["account_name"] = host.partition(".")[0]
    account = settings.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    account = account or os.environ.get("AZURE_STORAGE_ACCOUNT")
    emulator = _flag("AZURE_STORAGE_USE_EMULATOR")
    if not account and not emulator:
        raise StorageError(
            f"{scheme}://{bucket}: names no storage account; set AZURE_STORAGE_ACCOUNT_NAME, or"
            " write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX"
        )
    if account:
        settings["account_name"] = account
    if _flag("AZURE_SKIP_SIGNATURE"):
        settings["skip_signature"] = True
    elif not (
        {"account_key", "sas_key"} & settings.keys()
        or any(os.environ.get(name) for name in _AZURE_SIGNS)
        or _firmware_says(_AZURE_MACHINE)
    ):
        raise StorageError(
            f"{scheme}://: no credentials were found; set AZURE_STORAGE_ACCOUNT_KEY or"
            " AZURE_STORAGE_SAS_TOKEN, or AZURE_USE_AZURE_CLI=true after `az login`, or"
            " AZURE_SKIP_SIGNATURE to true for a public container"
        )
    if os.environ.get("IDENTITY_ENDPOINT") and "AZURE_MSI_ENDPOINT" not in os.environ:
        settings["msi_endpoint"] = os.environ["IDENTITY_ENDPOINT"]
    return AzureStore(container, **settings, client_options=_options(), retry_config=_retries())


def _connection_string() -> dict[str, Any]:
    """What AZURE_STORAGE_CONNECTION_STRING says, in the library's words."""
    text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    said = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    words = {
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "SharedAccessSignature": "sas_key",
        "BlobEndpoint": "endpoint",
    }
    return {word: said[name].rstrip("/") for name, word in words.items() if said.get(name)}


def _options() -> ClientConfig:
    connect, silent = protocol.TIMEOUT
    endpoints = (
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT",
        "AWS_ENDPOINT_URL_S3",
        "AZURE_STORAGE_ENDPOINT",
    )
    plain = any(os.environ.get(name, "").startswith("http://") for name in endpoints)
    said = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    plain |= "Endpoint=http://" in said or _flag("AZURE_STORAGE_USE_EMULATOR")
    return {
        "allow_http": plain or _flag("AWS_ALLOW_HTTP") or _flag("AZURE_ALLOW_HTTP"),
        "connect_timeout": timedelta(seconds=connect),
        "read_timeout": timedelta(seconds=silent),
        "timeout": timedelta(hours=1),  # of a whole answer: models are large
        "pool_idle_timeout": timedelta(seconds=silent),
    }


def _retries() -> RetryConfig:
    first, longest = protocol.RETRY_PAUSE
    return {
        "max_retries": 1000,  # the time decides
        "retry_timeout": timedelta(seconds=protocol.RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(seconds=first),
            "max_backoff": timedelta(seconds=longest),
            "base": 2,
        },
    }


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes", "on")


def _firmware_says(text: str) -> bool:
    """Whether this is a machine of that maker, which has a metadata server to ask.

    Elsewhere asking for one waits for minutes.
    """
    for name in ("sys_vendor", "board_vendor", "bios_vendor", "chassis_asset_tag"):
        try:
            with open(f"/sys/class/dmi/id/{name}", encoding="utf-8", errors="replace") as file:
                if text in file.read():
                    return True
        except OSError:
            continue
    return False
