import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_export.redact import redact

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
        "no known picture format; starts with b'hello'",
        "64x48 is 3,072 pixels, limit 5 (raise it with --max-pixels)",
    ],
)
def test_ordinary_messages_stay(text):
    assert redact(text) == text


@given(st.text())
def test_any_text_is_survived_and_redacting_twice_changes_nothing(text):
    assert redact(redact(text)) == redact(text)
