"""The files that an export may be: how each is written, and how what was written computes."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metalab.core.errors import UserError
from metalab.serving.exportable import Exportable

Format = Literal["onnx", "pt2", "safetensors"]
Compute = Callable[..., Tensor]


class FileFormat(NamedTuple):
    """How a file is written from an exportable and its facts, and how it is read to compute again."""

    needs: tuple[str, ...]  # packages
    write: Callable[[Path, Exportable, Mapping[str, Any]], None]
    read: Callable[[Path, Exportable], Compute]


class Recorded(nn.Module):
    """A function of tensors as the module that torch.export wants."""

    def __init__(self, record: Compute) -> None:
        super().__init__()
        self.record = record

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.record(*inputs)


def check_installed(name: Format) -> None:
    """Raise UserError where the packages that a format needs are not installed."""
    if missing := [package for package in FORMATS[name].needs if find_spec(package) is None]:
        raise UserError(f"format={name} needs {' and '.join(missing)}: type pip install 'metalab[export]'")


def text_facts(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return facts as the texts that a file's metadata takes: what is no text is JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what exporters say of their own work off the screen; their errors are raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _program(what: Exportable) -> Any:
    """Return the function as torch.export records it, the first dimension of every argument free."""
    names = [what.dimension(name) for name in what.inputs]
    free = {name: torch.export.Dim(name, min=1) for name in names}
    shapes = {"inputs": tuple({0: free[name]} for name in names)}
    return torch.export.export(Recorded(what.record), what.example, dynamic_shapes=shapes, strict=False)


def _write_onnx(path: Path, what: Exportable, facts: Mapping[str, Any]) -> None:
    program: Any = torch.onnx.export(
        _program(what), dynamo=True, verbose=False, input_names=list(what.inputs), output_names=[what.output]
    )
    program.model.metadata_props.update(text_facts(facts))
    program.save(path, external_data=False)


def _read_onnx(path: Path, what: Exportable) -> Compute:
    session = onnx_session(path)
    return lambda *inputs: run_session(session, dict(zip(what.inputs, inputs, strict=True)))


def onnx_session(path: Path) -> Any:
    """Return onnxruntime's session of a file, on the processor."""
    import onnxruntime

    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_session(session: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the one output of a session."""
    [made] = session.run(None, {name: tensor.cpu().numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(made)


def _write_pt2(path: Path, what: Exportable, facts: Mapping[str, Any]) -> None:
    torch.export.save(_program(what), path, extra_files={"metadata.json": json.dumps(facts)})


def _read_pt2(path: Path, what: Exportable) -> Compute:
    return torch.export.load(path).module()


def _write_safetensors(path: Path, what: Exportable, facts: Mapping[str, Any]) -> None:
    from safetensors.torch import save_file

    assert what.weights is not None
    save_file({name: t.clone().contiguous() for name, t in what.weights.items()}, path, text_facts(facts))


def _read_safetensors(path: Path, what: Exportable) -> Compute:
    from safetensors.torch import load_file

    return what.restored(load_file(path))


FORMATS: dict[str, FileFormat] = {
    "onnx": FileFormat(("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
    "pt2": FileFormat((), _write_pt2, _read_pt2),
    "safetensors": FileFormat(("safetensors",), _write_safetensors, _read_safetensors),
}
