"""Addresses of servers: ``dicomweb://HOST[:PORT]/PATH?FILTERS`` and ``dimse://AET@HOST:PORT?FILTERS``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from medidiff.errors import ConfigError

# What studies and series may be chosen by, as DICOM spells it; wildcards and date ranges are the server's.
FILTERS = (
    "PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber", "StudyDescription", "Modality",
    "SeriesInstanceUID", "SeriesDescription",
)  # fmt: skip
_SETTINGS = ("method", "calling", "port")
_FORM = "expected dicomweb://HOST[:PORT]/PATH, dicomwebs:// for HTTPS, or dimse://AET@HOST:PORT"


@dataclass(frozen=True, slots=True)
class Address:
    """A server and what to ask it for.

    Args:
        scheme: ``"dicomweb"``, ``"dicomwebs"`` or ``"dimse"``.
        host, port: Where; port 0 for the protocol's own.
        path: Of a DICOMweb service.
        aet: Called application entity title, for DIMSE.
        filters: DICOM keywords and values.
        method: ``"get"``, ``"move"`` or ``"auto"``: C-GET, and C-MOVE where that is refused.
        calling: Our own title.
        own_port: Where we listen for C-MOVE; 0 for the usual.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    aet: str = ""
    filters: tuple[tuple[str, str], ...] = ()
    method: str = "auto"
    calling: str = "MEDIDIFF"
    own_port: int = 11112

    @property
    def url(self) -> str:
        """Of a DICOMweb service."""
        port = f":{self.port}" if self.port else ""
        return f"{'https' if self.scheme == 'dicomwebs' else 'http'}://{self.host}{port}{self.path.rstrip('/')}"

    def __str__(self) -> str:
        """Without the filters, which may name a patient."""
        title = f"{self.aet}@" if self.aet else ""
        port = f":{self.port}" if self.port else ""
        return f"{self.scheme}://{title}{self.host}{port}{self.path}"


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        ConfigError: it is none, or asks by something that no server knows.
    """
    try:
        parts = urlsplit(text)
        port = parts.port or 0
    except ValueError as error:
        raise ConfigError(f"not an address ({error}); {_FORM}") from None
    if parts.scheme not in ("dicomweb", "dicomwebs", "dimse") or not parts.hostname:
        raise ConfigError(f"not an address of a server; {_FORM}")
    if parts.password is not None:
        raise ConfigError("a password in an address ends in logs and histories; put it into ~/.netrc")
    # urlsplit lowers host names; titles are case-sensitive, and it leaves them alone.
    aet = parts.username or ""
    if parts.scheme == "dimse" and (not aet or not port):
        raise ConfigError(f"a DIMSE address needs a title and a port; {_FORM}")
    if len(aet) > 16:
        raise ConfigError(f"an application entity title has 16 characters at most, got {len(aet)}")
    settings: dict[str, str] = {}
    filters: list[tuple[str, str]] = []
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in FILTERS:
            filters.append((name, value))
        elif name in _SETTINGS:
            settings[name] = value
        else:
            raise ConfigError(
                f"{name}: a server cannot be asked by that; known are {', '.join((*FILTERS, *_SETTINGS))}"
            )
    method = settings.get("method", "auto")
    if method not in ("auto", "get", "move"):
        raise ConfigError(f"method: expected get, move or auto, got {method}")
    own = settings.get("port", "11112")
    if not own.isdigit() or not 0 < int(own) < 65536:
        raise ConfigError(f"port: expected 1 to 65535, got {own}")
    return Address(
        scheme=parts.scheme,
        host=parts.hostname,
        port=port,
        path=parts.path,
        aet=aet,
        filters=tuple(filters),
        method=method,
        calling=settings.get("calling", "MEDIDIFF"),
        own_port=int(own),
    )
