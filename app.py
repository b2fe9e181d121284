"""The browser interface: ``python app.py``, and ``python app.py --help`` for its flags."""

from __future__ import annotations

import contextlib
import sys

with contextlib.suppress(ImportError):  # a Space with ZeroGPU wants this before PyTorch
    import spaces  # noqa: F401

from ovdemo.ui.launch import main

if __name__ == "__main__":
    sys.exit(main())
