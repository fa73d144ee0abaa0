"""No passwords and keys in recipes and options: they are logged, tracked, and shown in a cluster's dashboard."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rtnet.errors import UserError

_SCHEME = r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
_SECRETS = (
    # A password may hold unescaped slashes, as S3's keys do; what follows a colon may also be a port.
    re.compile(_SCHEME + r"(?P<secret>[^/?#\s@:]*:(?!\d+(?:[/?#\s]|$))[^\s?#]*)@"),
    re.compile(r"(?P<scheme>s3)://(?P<secret>[^/?#\s@]*)@"),
    re.compile(
        _SCHEME + r"[^\s?]*\?(?:[^\s]*&)?[^\s=&]*"
        r"(?:password|passwd|secret|token|signature|credential|access_?key|\bsig)[^\s=&]*=(?P<secret>[^\s&]+)",
        re.IGNORECASE,
    ),
)
_ELSEWHERE = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "http": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; of a Ray cluster RAY_AUTH_TOKEN_PATH",
    "postgresql": "PGPASSWORD or PGPASSFILE; better that of an MLflow server in front of it",
}


def refuse_credentials(values: Mapping[str, Any], origin: str) -> None:
    """UserError naming the first field whose text is a URI that holds a password, key or token, and where it belongs.

    values: field or option -> what it is; lists and mappings are looked through. The secret is not repeated.
    """
    for field, text in _texts(values):
        if found := next((found for secret in _SECRETS if (found := secret.search(text))), None):
            scheme = found["scheme"].lower()
            place = next((where for start, where in _ELSEWHERE.items() if scheme.startswith(start)), "see its manual")
            raise UserError(
                f"{origin}{field}: this {scheme}:// URI holds a password, key or token, and recipes and options are "
                f"logged: leave it out and give it in the environment ({place})"
            )


def redacted(text: str) -> str:
    """A message without the secrets of the URIs in it."""
    for secret in _SECRETS:
        text = secret.sub(_without, text)
    return text


def _without(found: re.Match[str]) -> str:
    begin, end = (place - found.start() for place in found.span("secret"))
    return f"{found[0][:begin]}***{found[0][end:]}"


def _texts(values: Any, field: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(values, str):
        name, equals, value = values.partition("=")
        # An override names its field itself.
        yield (name, value) if equals and re.fullmatch(r"[\w.-]+", name) else (field, values)
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from _texts(value, f"{field}.{key}" if field else str(key))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _texts(value, field)
