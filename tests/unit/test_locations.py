"""Locations, foreign texts and errors never show the credentials of a URI."""

import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distributed_pose.errors import SetupError
from distributed_pose.locations import Location, redacted


@pytest.mark.parametrize(
    ("plain", "shown"),
    [
        ("s3://KEY:SECRET@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY:SEC/RET@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY:SEC RET@bucket/x", "s3://***@bucket/x"),
        ("s3:/KEY:SECRET@bucket/x", "s3:/***@bucket/x"),
        ("https://TOKEN@host/x", "https://***@host/x"),
        ("https://host/x?sig=a%2Fb&se=1#t=2", "https://host/x?sig=***&se=***#t=***"),
        ("s3://b/x?region=eu-1&secret_key=S", "s3://b/x?region=eu-1&secret_key=***"),
        ("s3://b/x?endpoint_override=user:pw@host", "s3://b/x?endpoint_override=***"),
        ("s3://b/x?SECRET", "s3://b/x?***"),
        ("abfss://name:KEY@account/x", "abfss://name:***@account/x"),
        ("abfss://:KEY@account/x", "abfss://***@account/x"),
        # Locations without credentials are shown unchanged.
        ("s3://bucket/a@2x.jpg?region=eu", "s3://bucket/a@2x.jpg?region=eu"),
        ("abfss://name@account/x", "abfss://name@account/x"),
        ("hdfs://user@host:9000/x", "hdfs://user@host:9000/x"),
        ("file:///a@b/c", "file:///a@b/c"),
        ("/data/a:b@c", "/data/a:b@c"),
        ("runs/1", "runs/1"),
    ],
)
def test_a_location_shows_everything_except_its_credentials(plain: str, shown: str) -> None:
    location = Location(plain)
    assert str(location) == f"{location}" == shown
    assert repr(location) == f"Location({shown!r})"
    assert location.plain == plain
    assert Location(shown).lacks_credentials == ("***" in shown and "://" in shown)


def test_a_location_is_pickled_with_its_credentials_and_cannot_be_written_as_json() -> None:
    location = Location("s3://KEY:SECRET@bucket/x")
    assert pickle.loads(pickle.dumps(location)) == location
    assert {location: 1}[Location(location)] == 1
    with pytest.raises(TypeError):
        json.dumps(location)


def test_the_name_of_a_file_is_inserted_before_the_options_of_a_uri() -> None:
    assert Location("s3://b/x/?region=eu").within("a.json").plain == "s3://b/x/a.json?region=eu"
    assert Location("data").within("a?.json").plain == "data/a?.json"


def test_credentials_in_any_encoding_are_removed_from_a_foreign_text() -> None:
    location = Location("s3://KEY1:SEC%2FRET@bucket/x?token=HIDE%20ME")
    text = f"no {location.plain}: SEC/RET, SEC%2FRET, KEY1 and HIDE ME of s3://K:S@other"
    cleaned = location.cleaned(text)
    assert cleaned == f"no {location}: ***, ***, *** and *** of s3://***@other"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open 's3://K:S@b/x?token=T': why", "cannot open 's3://***@b/x?token=***': why"),
        ("['s3://K:S@b','s3://L:T@c']", "['s3://***@b','s3://***@c']"),
        (
            "--set 'data.images=s3://K:S@b/x' --output y",
            "--set 'data.images=s3://***@b/x' --output y",
        ),
        ("a s3://b/x? no, a/b:c@d", "a s3://b/x? no, a/b:c@d"),
    ],
)
def test_uris_in_a_text_show_no_credentials(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(shown) == shown


_WORD = st.text("abcXYZ019+/=%._-~!$'(),;", min_size=8, max_size=40)


@settings(max_examples=300, deadline=None)
@given(_WORD, st.sampled_from(["s3", "gs", "https", "gopher"]))
def test_no_secret_is_shown_whatever_characters_it_has(secret: str, scheme: str) -> None:
    for uri in (f"{scheme}://user:{secret}@host/x", f"{scheme}://host/x?password={secret}"):
        assert secret not in str(Location(uri))
        assert secret not in str(SetupError(f"cannot open {uri}: no", uri))


def test_no_part_of_an_error_shows_credentials() -> None:
    error = SetupError("no s3://K:SECRET@b")
    error.hint = "go on with s3://K:SECRET@b"
    assert "SECRET" not in f"{error} {error.message} {error.args}"
