"""A transform on disk: ``config.json`` and ``model.safetensors``, never a pickle; written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from llama_index_instruct.errors import TransformFileError

CONFIG = "config.json"
TENSORS = "model.safetensors"
FORMAT = "llama_index_instruct.GSTransform"
FORMAT_VERSION = 1
# Files are written into the first folder; renaming it to the second is the moment the new transform replaces the old.
UNFINISHED = ".unfinished"
COMMITTED = ".committed"

# Both files are read again if they do not match: a save may have come between.
READS = 3

Tensors = dict[str, npt.NDArray[np.float32]]


def write_transform(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[np.floating[Any]]]
) -> None:
    """Write both files; a reader sees the old transform or the new one, wherever the process is killed.

    Args:
        folder: Created if need be.
        config: Plain JSON values; format, version and checksum are added.
        tensors: Saved as float32.
    """
    # safetensors writes other numbers, without an error, for arrays that are not C-contiguous.
    exact = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in tensors.items()}
    if any(not np.isfinite(array).all() for array in exact.values()):
        raise TransformFileError(f"{folder}: expected finite weights, found NaN or infinity; nothing was saved")
    payload = save(exact)
    back = load(payload)
    if any(not np.array_equal(back[name], array) for name, array in exact.items()):
        raise TransformFileError(f"{folder}: what safetensors wrote does not read back; nothing was saved")
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "sha256": hashlib.sha256(payload).hexdigest()}
    try:
        text = _as_json({**head, **config})
        folder.mkdir(parents=True, exist_ok=True)
    except (TypeError, ValueError, FileExistsError) as error:
        raise TransformFileError(f"{folder}: cannot be saved ({error}); nothing was saved") from error
    _finish(folder)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    (folder / UNFINISHED).mkdir()
    _write_through(folder / UNFINISHED / TENSORS, payload)
    _write_through(folder / UNFINISHED / CONFIG, text)
    (folder / UNFINISHED).rename(folder / COMMITTED)
    _sync(folder)
    _finish(folder)


def read_transform(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """Return config and tensors, checked against each other.

    Raises:
        TransformFileError: If a file is missing, damaged, of another format or version, or they do not belong together.
    """
    if folder.is_file():
        raise TransformFileError(
            f"{folder}: expected a folder with {CONFIG} and {TENSORS}, found a file; pickles and bare weights are never read"
        )
    for attempt in range(READS):
        try:
            tensor_path = _current(folder, TENSORS)
            config, payload = _read_config(_current(folder, CONFIG)), _read(tensor_path)
        except TransformFileError:
            if attempt == READS - 1:
                raise
            continue
        if hashlib.sha256(payload).hexdigest() == config.get("sha256"):
            break
    else:
        raise TransformFileError(
            f"{tensor_path}: the contents do not match the checksum in {CONFIG}: the file is damaged or belongs to another "
            "transform; fit or copy it again"
        )
    try:
        tensors = load(payload)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise TransformFileError(f"{tensor_path}: not a safetensors file ({error})") from error
    for name, array in tensors.items():
        if array.dtype != np.float32:
            raise TransformFileError(f"{tensor_path}: expected float32, found {array.dtype} in tensor {name!r}")
        if not np.isfinite(array).all():
            raise TransformFileError(f"{tensor_path}: NaN or infinity in tensor {name!r}")
    return config, tensors


def _as_json(config: Mapping[str, Any]) -> bytes:
    text = json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate pair in an instruction or a label
        return (json.dumps(config, indent=1, allow_nan=False) + "\n").encode()


def _read_config(path: Path) -> dict[str, Any]:
    payload = _read(path)
    try:
        config = json.loads(payload.decode())
    except (ValueError, RecursionError) as error:
        raise TransformFileError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise TransformFileError(f"{path}: not the config of a GSTransform (expected format {FORMAT!r})")
    if config.get("format_version") != FORMAT_VERSION:
        raise TransformFileError(
            f"{path}: expected format version {FORMAT_VERSION}, found {config.get('format_version')!r}; update this package"
        )
    return config


def _current(folder: Path, name: str) -> Path:
    """Return where the file is: still in the committed folder, if a save was killed after its commit."""
    committed = folder / COMMITTED / name
    return committed if committed.is_file() else folder / name


def _finish(folder: Path) -> None:
    """Move the files of a committed save to their places."""
    if not (folder / COMMITTED).is_dir():
        return
    for name in (TENSORS, CONFIG):
        if (folder / COMMITTED / name).is_file():
            (folder / COMMITTED / name).replace(folder / name)
    _sync(folder)
    (folder / COMMITTED).rmdir()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TransformFileError(f"{path}: cannot be read ({error.strerror or error})") from error


def _write_through(path: Path, payload: bytes) -> None:
    with path.open("wb") as file:
        file.write(payload)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make renames durable where the platform can open a folder."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
