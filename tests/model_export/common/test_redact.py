import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagecensus.model_export.common.redact import redact, redact_column

SECRET = "s3cr3tV4lu3XYZ"


@pytest.mark.parametrize(
    "text",
    [
        f"https://storage.googleapis.com/b/o.jpg?X-Goog-Signature={SECRET}&Expires=1",
        f"see (http://host/a.jpg?sig={SECRET}) for more",
        f"https://user:{SECRET}@host/a.jpg",
        f"postgres://{SECRET}@host/db",
        f"Authorization: Bearer {SECRET}.{SECRET}",
        f"authorization: basic {SECRET}==",
        f"got eyJ{SECRET}.{SECRET}.{SECRET} instead",
        f"ya29.{SECRET}",
        f"password={SECRET}",
        f"{{'refresh_token': '{SECRET}'}}",
        f'"private_key": "{SECRET}"',
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
        f"api_key: {SECRET}",
    ],
)
def test_secrets_are_hidden(text):
    assert SECRET not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "/photos/2024/a b?.jpg: the file has no bytes",
        "gs://bucket/a/b.jpg: the object was deleted or replaced",
        "no known image format; starts with b'hello'",
        "64x48 is 3,072 pixels, limit 5 (raise it with --max-pixels)",
    ],
)
def test_ordinary_messages_stay(text):
    assert redact(text) == text


@given(st.text())
def test_any_text_is_survived_and_redacting_twice_changes_nothing(text):
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        f"https://storage.googleapis.com/b/o.jpg?X-Goog-Signature={SECRET}&Expires=1",
        f"https://b.s3.amazonaws.com/o.jpg?X-Amz-Credential=A&x=1&X-Amz-Signature={SECRET}",
        f"https://a.blob.core.windows.net/c/o.jpg?sp=r&sig={SECRET}",
        f"https://h/o.jpg?w=1&access_token={SECRET}",
        f"https://user:{SECRET}@host/a.jpg",
        f"seen at https://user:{SECRET}@host/a.jpg and https://h/a?sig={SECRET}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
        f"eyJ{SECRET}.{SECRET}.{SECRET}",
    ],
)
def test_secrets_in_columns_are_hidden(text):
    for kind in (pa.string(), pa.large_string(), pa.list_(pa.struct([("url", pa.string())]))):
        value = [{"url": text}] if pa.types.is_nested(kind) else text
        column = redact_column(pa.array([None, value], kind))
        assert column.type == kind and column[0].as_py() is None
        assert SECRET not in str(column[1].as_py())


def test_ordinary_columns_stay():
    texts = [
        "https://example.org/a.jpg?width=300&sign=left",
        "The secret: a token of love, signature: Ann",
        "https://www.flickr.com/photos/a@b/1",
        "mail me@example.org",
        None,
    ]
    for column in (pa.array(texts), pa.array([1, None]), pa.array([{"a": texts}])):
        assert redact_column(column).equals(column)


def test_a_container_s_name_is_no_secret():
    uri = "abfss://photos@museum.dfs.core.windows.net/a.jpg"
    assert redact(uri) == uri
    assert redact_column(pa.array([uri]))[0].as_py() == uri
    for hidden in ("abfss://user:pass@host/a", "abc://token@host/a", "a://token@host/a"):
        for text in (redact(hidden), redact_column(pa.array([hidden]))[0].as_py()):
            assert "pass" not in text and "token" not in text
    key = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0;Suffix=x"
    assert "c2VjcmV0" not in redact(key)
    assert "ASIAABCDEFGHIJKLMNOP" not in redact("id ASIAABCDEFGHIJKLMNOP")
