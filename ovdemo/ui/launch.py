"""From the command line's flags to a running server."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ovdemo import images
from ovdemo.default_model import DEFAULT_MODEL, chosen_model
from ovdemo.errors import UserError
from ovdemo.examples import EXAMPLES
from ovdemo.hierarchy import imagenet21k_tree
from ovdemo.loading import resolve_device
from ovdemo.models import Models
from ovdemo.systems.registry import find_variant
from ovdemo.ui.api import Api
from ovdemo.ui.desk import Desk
from ovdemo.ui.page import Page
from ovdemo.ui.theme import theme
from ovdemo.ui.widgets import style
from ovdemo.ui.zerogpu import accelerate
from ovdemo.vocabulary import lint
from ovdemo.vocabulary.wordnet import load_wordnet, start_loading

_QUEUE = 64  # visitors that wait; the next one is told to come back
_KEPT = 3600  # seconds that uploads and files stay

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start the server and serve until it is stopped.

    Returns:
        0, or 2 where a flag cannot be used.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        resolve_device(options.device)
        models = Models(
            device=options.device,
            precision=options.precision,
            checkpoints=dict(map(_checkpoint, options.checkpoint)),
            accelerate=accelerate(),
        )
        auth = _auth()
        if models.accelerate is not None:
            models.get(DEFAULT_MODEL)  # before the launch, when ZeroGPU looks for what wants its GPU
    except UserError as error:
        print(f"ovdemo: {error}", file=sys.stderr)
        return 2
    serve(Desk(models), options, auth)
    return 0


def serve(
    desk: Desk, options: argparse.Namespace, auth: tuple[str, str] | None = None, *, block: bool = True
) -> gr.Blocks:
    """Build the page, launch it, and load the default model beside that."""
    demo = build(desk)
    ready = threading.Event()
    threading.Thread(target=_warm_up, args=(desk, ready), name="warm-up", daemon=True).start()
    demo.queue(max_size=_QUEUE, default_concurrency_limit=4)
    demo.launch(
        server_name=options.host,
        server_port=options.port,
        share=options.share,
        auth=auth,
        mcp_server=options.mcp,
        theme=theme(),
        css=style(),
        show_error=True,
        enable_monitoring=False,
        max_file_size=images.MAX_BYTES,
        allowed_paths=[str(path) for example in EXAMPLES if (path := example.path())],
        app_kwargs={"routes": health_routes(ready)},
        prevent_thread_lock=not block,
    )
    return demo


def build(desk: Desk) -> gr.Blocks:
    """The page and its endpoints, not launched."""
    demo = gr.Blocks(title="ovdemo", analytics_enabled=False, delete_cache=(_KEPT, _KEPT))
    with demo:
        Page(desk)
        Api(desk)
    return demo


def health_routes(ready: threading.Event) -> list[Route]:
    """``/healthz``: the process answers; ``/readyz``: the default model is loaded, else status 503."""

    def healthz(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    def readyz(request: Request) -> JSONResponse:
        if ready.is_set():
            return JSONResponse({"status": "ready"})
        return JSONResponse({"status": "loading"}, status_code=503)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _warm_up(desk: Desk, ready: threading.Event) -> None:
    """Load the default model and look at the first example, so that the first visitor does not wait for either."""
    try:
        workbench = desk.models.get(DEFAULT_MODEL)
        ready.set()
        example = EXAMPLES[0]
        path = example.path()
        if path is not None:
            workbench.analyse(path).segment(example.words)
    except UserError as error:
        log.error("%s", error)  # another model can be chosen
    except Exception:
        log.exception("the default model does not work")
    lint("cat")  # reads all presets
    importlib.import_module("sklearn.cluster")  # a second that the first panel of features need not wait for
    start_loading(then=lambda: imagenet21k_tree(load_wordnet()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python app.py", description="ovdemo in the browser.")
    parser.add_argument(
        "--host", default=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), help="address to listen on"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--share", action="store_true", help="a public link through Gradio's servers, for 72 hours")
    parser.add_argument("--mcp", action="store_true", help="offer the endpoints as MCP tools (needs gradio[mcp])")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument(
        "--checkpoint",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a file of your own for a model, such as the authors'; repeatable",
    )
    return parser


def _checkpoint(text: str) -> tuple[str, Path]:
    name, found, file = text.partition("=")
    if not found or not Path(file).is_file():
        raise UserError(f"--checkpoint takes NAME=FILE with a file that exists; {text} is not that.")
    return find_variant(chosen_model(name)).name, Path(file)


def _auth() -> tuple[str, str] | None:
    """Name and password from ``OVDEMO_AUTH=user:password``; never on the command line, which others can read."""
    text = os.environ.get("OVDEMO_AUTH", "")
    if not text:
        return None
    user, found, password = text.partition(":")
    if not (found and user and password):
        raise UserError("OVDEMO_AUTH must be user:password; set it so, or unset it.")
    return user, password
