"""Paths and URIs, which are shown without the credentials that a URI can contain."""

import re
from pathlib import Path
from urllib.parse import unquote

# Replaces a credential.
HIDDEN = "***"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*:(?://|/(?!/))"

# A secret with a slash that is not percent-encoded ends at a later "@". `pathlib` reduces two
# slashes to one.
_USER = re.compile(rf"(?P<scheme>{_SCHEME})(?P<user>[^\s/?#]*@|[^\s/?#]*:[^\s]*@)")
_QUERY = re.compile(
    rf"(?P<before>{_SCHEME}[^\s?#]*[?#])(?P<query>\S*?)(?P<after>[)'\"`,.:;\]}}]{{0,4}})(?=\s|$)"
)
_PARAMETER = re.compile(r"(?P<key>[^&#=]*)=(?P<value>[^&#]*)|[^&#]+")

# In these schemes the first part of the authority is a name and not a credential.
_NAMED = ("abfs:", "abfss:", "hdfs:", "viewfs:", "wasb:", "wasbs:")

# Options of pyarrow's filesystems that are not credentials; any other option may be one.
_SHOWN_OPTIONS = {
    "allow_bucket_creation",
    "allow_bucket_deletion",
    "buffer_size",
    "default_block_size",
    "enable_tls",
    "endpoint_override",
    "region",
    "replication",
    "retry_limit_seconds",
    "scheme",
    "tls_verify_certificates",
    "use_mmap",
}
_SHOWN_VALUE = re.compile(r"[A-Za-z0-9_.:/\[\]%-]*")

# Replaces blanks in secrets while patterns for words are matched.
_BLANK = "\N{SYMBOL FOR SPACE}"

# Shorter secrets would also match parts of other words.
_LEAST_SECRET = 4


class Location:
    """A path or a URI. Its text shows no credentials; only `plain` contains them.

    Args:
        plain: path or URI as the user gave it.
    """

    __slots__ = ("plain",)

    def __init__(self, plain: "str | Path | Location") -> None:
        self.plain: str = plain.plain if isinstance(plain, Location) else str(plain)

    def __str__(self) -> str:
        # Without blanks, so that the pattern matches the whole secret.
        return redacted(re.sub(r"\s", "%20", self.plain) if self.is_uri else self.plain)

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Location) and self.plain == other.plain

    def __hash__(self) -> int:
        return hash(self.plain)

    @property
    def is_uri(self) -> bool:
        """Whether it is a URI, which a filesystem of pyarrow opens."""
        return "://" in self.plain

    @property
    def lacks_credentials(self) -> bool:
        """Whether it is a URI whose credentials `str` has already replaced."""
        is_hidden = re.search(rf"{re.escape(HIDDEN)}@|[=?&#]{re.escape(HIDDEN)}", self.plain)
        return self.is_uri and is_hidden is not None and str(self) == self.plain

    def absolute(self) -> "Location":
        """Returns the location in a form that other processes can open."""
        return self if self.is_uri else Location(Path(self.plain).absolute())

    def within(self, name: str) -> "Location":
        """Returns the location of a file in this folder."""
        path, mark, options = self.plain.partition("?") if self.is_uri else (self.plain, "", "")
        return Location(f"{path.rstrip('/')}/{name}{mark}{options}")

    def cleaned(self, text: str) -> str:
        """Returns a foreign text, such as an error message, without this location's credentials."""
        text = text.replace(self.plain, str(self))
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, HIDDEN)
        return redacted(text)

    def _secrets(self) -> set[str]:
        if not self.is_uri:
            return set()
        word = re.sub(r"\s", _BLANK, self.plain)
        words = [secret for match in _USER.finditer(word) for secret in _secrets_of_user(match)]
        for query in _QUERY.finditer(word):
            options = _PARAMETER.finditer(query["query"])
            words += [option["value"] or option[0] for option in options if _is_hidden(option)]
        given = [secret.replace(_BLANK, " ") for secret in words]
        return {s for s in (*given, *map(unquote, given)) if len(s) >= _LEAST_SECRET}


def redacted(text: str) -> str:
    """Returns a text in which URIs show no credentials."""
    if ":/" not in text:
        return text
    return _QUERY.sub(_without_options, _USER.sub(_without_user, text))


def _without_user(match: re.Match[str]) -> str:
    name, mark, _ = match["user"].removesuffix("@").partition(":")
    if _is_named(match):
        return f"{match['scheme']}{name}{f':{HIDDEN}' if mark else ''}@"
    return f"{match['scheme']}{HIDDEN}@"


def _secrets_of_user(match: re.Match[str]) -> list[str]:
    name, _, secret = match["user"].removesuffix("@").partition(":")
    return [secret] if _is_named(match) else [name, secret]


def _is_named(match: re.Match[str]) -> bool:
    """Returns whether the user part of a URI starts with a name that is not a credential."""
    is_name = not match["user"].startswith((":", "@"))
    return is_name and match["scheme"].lower().startswith(_NAMED)


def _without_options(match: re.Match[str]) -> str:
    def shown(option: re.Match[str]) -> str:
        if not _is_hidden(option):
            return option[0]
        return f"{option['key']}={HIDDEN}" if option["key"] else HIDDEN

    return f"{match['before']}{_PARAMETER.sub(shown, match['query'])}{match['after']}"


def _is_hidden(option: re.Match[str]) -> bool:
    """Returns whether an option of a URI may be a credential and is not replaced yet."""
    if option["key"] is None:
        return option[0] != HIDDEN
    is_harmless = option["key"] in _SHOWN_OPTIONS and _SHOWN_VALUE.fullmatch(option["value"])
    return not is_harmless and option["value"] != HIDDEN
