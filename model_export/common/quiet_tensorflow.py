"""Imports TensorFlow without its start-up chatter, and with float32: import this module first.

Its C++ libraries write a dozen lines to stderr while they load, before any log level is read.
They are kept back, and shown only when the import fails.
"""

from __future__ import annotations

import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# oneDNN is off by default on CPUs without AVX512; on, it is 1.3 to 2 times faster. Read on import.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def _import() -> None:
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            os.dup2(terminal, 2)
            chatter.seek(0)
            os.write(2, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


if "tensorflow" not in sys.modules:
    _import()
import tensorflow as tf  # noqa: E402

# A GPU's default for float32 has 10 bits of mantissa: golden images would get other scores.
tf.config.experimental.enable_tensor_float_32_execution(False)
