"""Where to start. The browser interface will be launched from here once it exists."""

from __future__ import annotations

from pathlib import Path

import sklearn

EXAMPLE = Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg"

print(f"""ovdemo has no browser interface yet; it works from the command line and from Python.

The models, and whether their weights are on this machine:

    python -m ovdemo checkpoints list

Cut a photograph (here one that scikit-learn carries) into labelled segments, with the small model that comes with the
project; the pictures land in out/:

    python -m ovdemo segment {EXAMPLE} --classes "temple|pagoda, tree, sky, person, path:stuff" --out out
""")
