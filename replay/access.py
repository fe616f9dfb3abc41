"""What an object store is reached with: the environment, and for S3 what a profile in ~/.aws says besides.

obstore reads the environment itself. It panics at values that cannot be meant, and knows no profiles, so both are here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from configparser import Error, RawConfigParser
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from lede.ground import first_line
from lede.replay.errors import DatasetError

PREFIXES = {"s3:": "AWS_", "gs:": "GOOGLE_", "az:": "AZURE_", "abfss:": "AZURE_"}
ENDPOINTS = {"AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS", "AWS_METADATA_ENDPOINT"}
ENDPOINTS |= {"AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "GOOGLE_BASE_URL"}
# What a profile may say, and where the environment says it instead.
OWN = {
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "endpoint_url": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
}
KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
ELSEWHERE = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SKIP_SIGNATURE")  # instead of a profile's keys
# Ways to keys that a profile may name, which only Amazon's own tools know.
OTHER_WAYS = ("role_arn", "sso_session", "sso_start_url", "credential_process", "web_identity_token_file")


def settings(scheme: str) -> dict[str, str]:
    """What the environment does not say itself: of S3, a profile's region, address and keys.

    scheme: one of `storage.SCHEMES`. Raises `DatasetError` for what in the environment or the profile cannot be meant
    or is not read.
    """
    said = {name: value for name, value in os.environ.items() if name.startswith(PREFIXES[scheme])}
    found = _profile(said) if scheme == "s3:" else {}
    for name, value in (said | found).items():
        if name in ENDPOINTS or name == "aws_endpoint_url":
            _check_endpoint(name, value)
        elif not value.isprintable() or value != value.strip():
            raise DatasetError(f"{name} has a blank at an end or a line break in it: take it out")
    return found


def _check_endpoint(name: str, value: str) -> None:
    with suppress(ValueError):  # brackets or a port that are none
        parts = urlsplit(value)
        plain = value.isascii() and value.isprintable() and " " not in value and parts.port != 0
        if plain and parts.scheme in ("http", "https") and parts.hostname:
            return
    raise DatasetError(f"{name} is {value!r}, which is no address: write http://HOST:PORT or https://HOST, or unset it")


def _profile(said: Mapping[str, str]) -> dict[str, str]:
    asked = said.get("AWS_PROFILE") or said.get("AWS_DEFAULT_PROFILE")
    name = asked or "default"
    credentials = Path(said.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
    config = Path(said.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser()
    sections = [*_section(config, name if name == "default" else f"profile {name}"), *_section(credentials, name)]
    if asked and not sections:
        raise DatasetError(f"AWS_PROFILE is {asked}, and neither {config} nor {credentials} has such a profile")
    profile = {key: value for section in sections for key, value in section.items()}
    if "services" in profile and not any(said.get(key) for key in OWN["endpoint_url"]):
        raise DatasetError(
            f"the profile {name} in {config} names services, which are not read: set AWS_ENDPOINT_URL to the store's"
        )
    found = {
        f"aws_{key}": profile[key]
        for key, instead in OWN.items()
        if key in profile and not any(said.get(other) for other in instead)
    }
    if any(said.get(key) for key in ELSEWHERE):
        return found
    if ways := [way for way in OTHER_WAYS if way in profile]:
        raise DatasetError(
            f"the profile {name} has {ways[0]}, and only keys are read from profiles: "
            f'eval "$(aws configure export-credentials --profile {name} --format env)" puts keys into the environment'
        )
    return found | {key: profile[key] for key in KEYS if key in profile}


def _section(path: Path, name: str) -> Iterator[dict[str, str]]:
    """A section of an INI file, if it is there."""
    parser = RawConfigParser(strict=False, default_section="")
    try:
        parser.read(path, "utf-8")
    except (Error, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as profiles: {first_line(error)}") from error
    if parser.has_section(name):
        yield dict(parser[name])
