"""Netpbm of every depth."""

import numpy as np
import pytest
from seen import decode, smooth, status_of


@pytest.mark.parametrize(
    ("head", "most"), [(b"P5 64 48 255\n", 255), (b"P5\n# text\n64 48\n65535\n", 65535),
                       (b"P5 64 48 1023\n", 1023), (b"P2 64 48 200\n", 200),
                       (b"P7\nWIDTH 64\nHEIGHT 48\nDEPTH 1\nMAXVAL 255\nENDHDR\n", 255)],
)  # fmt: skip
def test_netpbm_of_every_depth(head, most):
    grey = np.asarray(smooth().convert("L")).astype(np.float64)
    samples = np.round(grey * most / 255).astype(np.uint16)
    if head.startswith(b"P2"):
        body = b" ".join(str(value).encode() for value in samples.ravel())
    else:
        body = samples.astype(">u2" if most > 255 else "u1").tobytes()
    out, _ = decode(head + body)
    assert np.abs(out[..., 0] - grey).max() <= 1
    assert status_of((head + body)[:-10]) == "truncated"
