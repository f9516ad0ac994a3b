"""The two formats: ONNX for every runtime, ``.pt2`` of torch.export for PyTorch alone."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from mmkd.apis.deploy.graph import Graph

SUFFIX = dict(onnx='.onnx', torch_export='.pt2')
RUNTIME = dict(onnx='onnxruntime', torch_export='torch.export')
LIBRARIES = ('onnx', 'onnxscript', 'onnxruntime')
INPUT, OUTPUT = 'inputs', 'logits'


@dataclass(frozen=True)
class Written:
    """A graph as a file's bytes, and how it runs.

    Args:
        content: Of the file.
        run: The file, loaded: pixels -> output.
        dynamic: Whether it takes any number of images; else one.
    """

    content: bytes
    run: Callable[[Tensor], Tensor]
    dynamic: bool


def require_onnx() -> None:
    """Refuse to begin where one of the libraries is missing.

    Raises:
        ImportError: Names it, and the extra that brings it.
    """
    for name in LIBRARIES:
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(
                f'--onnx needs {name}, which does not import here ({error}). Mend: pip install '
                "'mmkd[onnx]', or --torch-export, which needs nothing more"
            ) from error


@torch.no_grad()
def write(kind: str, graph: Graph, images: Tensor, about: dict[str, Any]) -> Written:
    """Write a graph, with a batch of any size where that can be traced.

    Args:
        kind: 'onnx' or 'torch_export'.
        graph: The model, in eval mode.
        images: Two of them, as the graph takes them.
        about: What the file is to say of itself: name -> text or what JSON holds.

    Raises:
        RuntimeError: It can be traced neither way; says the end of torch's reason.
    """
    texts = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()
    }
    make = _onnx if kind == 'onnx' else _torch_export
    with _quiet():
        try:
            return make(graph, images, texts, True)
        except Exception:  # whatever a tracer raises of a graph that depends on the batch
            pass
        try:
            return make(graph, images[:1], texts, False)
        except Exception as error:
            raise RuntimeError(
                f'{type(graph.model).__name__} cannot be traced for {SUFFIX[kind]} '
                f'({_last(error)}). Mend: the other of --onnx and --torch-export, or another model'
            ) from error


def _onnx(graph: Graph, images: Tensor, texts: dict[str, str], dynamic: bool) -> Written:
    program: Any = torch.onnx.export(
        graph,
        (images,),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=_shapes(dynamic),
        verbose=False,
    )
    program.model.metadata_props.update(texts)
    content = program.model_proto.SerializeToString()
    session = open_onnx(content)
    return Written(content, lambda x: run_onnx(session, x), dynamic)


def open_onnx(content: bytes) -> Any:
    """Return a session of onnxruntime with as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])


def run_onnx(session: Any, images: Tensor) -> Tensor:
    """Return the output of a session."""
    return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def _torch_export(graph: Graph, images: Tensor, texts: dict[str, str], dynamic: bool) -> Written:
    program = torch.export.export(graph, (images,), dynamic_shapes=_shapes(dynamic))
    file = BytesIO()
    torch.export.save(
        program, file, extra_files={f'{key}.txt': text for key, text in texts.items()}
    )
    content = file.getvalue()
    return Written(content, torch.export.load(BytesIO(content)).module(), dynamic)


def _shapes(dynamic: bool) -> dict[str, Any] | None:
    return {INPUT: {0: torch.export.Dim('batch', min=1, max=4096)}} if dynamic else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what tracers log of their attempts from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _last(error: BaseException) -> str:
    """Return the line of an error that says most: torch's begin with pages of hints."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f'{type(cause).__name__}: {(lines or [""])[0]:.200}'
