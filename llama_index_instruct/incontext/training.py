"""Mined rows -> an in-context embedding checkpoint, on sentence-transformers' trainer (arXiv 2506.07438)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index_instruct.errors import ConfigurationError, MissingExtraError
from llama_index_instruct.incontext.groups import TrainingSet
from llama_index_instruct.incontext.model_card import write_model_card
from llama_index_instruct.incontext.training_settings import DEFAULT_TRAINING, InContextTrainingSettings
from llama_index_instruct.training_runs import check_single_process, matching_checkpoint

if TYPE_CHECKING:
    from sentence_transformers.base.evaluation import BaseEvaluator


def train_incontext(
    sets: Sequence[TrainingSet],
    base: str,
    output: str | Path,
    *,
    settings: InContextTrainingSettings = DEFAULT_TRAINING,
    evaluators: Sequence[BaseEvaluator] = (),
    data_notes: str = "",
    resume: bool = True,
) -> Path:
    """Train a model and save it, ready for ``InContextEmbedding(output, task=...)`` and for ``SentenceTransformer(output)``.

    The loss is InfoNCE over the batch (for classification and clustering over each query's own group) plus the soft
    cross-entropy towards the teacher's scores within each group. As a plain ``SentenceTransformer`` the model is to be given
    whole prompts, as ``InContextEmbedding`` writes them.

    Args:
        sets: What to train on; every batch comes from one of them, in proportion to their sizes.
        base: Folder or Hub name of a decoder; or of a sentence-transformers model, which keeps its own pooling (then with
            ``template="bare"`` unless it was trained with instructions).
        output: Folder of the result; checkpoints are kept in its ``checkpoints`` folder.
        settings: See ``InContextTrainingSettings``.
        evaluators: sentence-transformers' evaluators, run during training; see ``retrieval_evaluator``.
        data_notes: Further sources and licences, Markdown for the model card.
        resume: Go on from the newest checkpoint in ``output``, if there is one of this very run.

    Returns:
        The output folder.

    Raises:
        ConfigurationError: If there are no sets, two of one name, the checkpoints belong to another run, or the processes are
            several.
        MissingExtraError: If the extra ``train`` is not installed.
    """
    if not sets:
        raise ConfigurationError("sets: expected at least one, found none")
    names = [found.name for found in sets]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"sets: expected different names, found {', '.join(names)}")
    check_single_process()
    for needed in ("accelerate", "datasets", *(("peft",) if settings.lora_rank else ())):
        if find_spec(needed) is None:
            raise MissingExtraError("Training", "train")
    from llama_index_instruct.incontext.trainer import prepare, save_trained

    output = Path(output)
    trainer = prepare(sets, base, output / "checkpoints", settings, evaluators)
    digest = _run_digest(sets, base, settings)
    trainer.train(resume_from_checkpoint=matching_checkpoint(output / "checkpoints", digest, resume=resume))
    save_trained(trainer, base, output, settings)
    write_model_card(output, base, sets, asdict(settings), trainer.state.log_history, data_notes)
    return output


def _run_digest(sets: Sequence[TrainingSet], base: str, settings: InContextTrainingSettings) -> str:
    digest = hashlib.sha256(json.dumps([base, asdict(settings)]).encode())
    for found in sets:
        digest.update(json.dumps([found.name, found.task, found.kind]).encode())
        for row in found.rows:
            digest.update(json.dumps(asdict(row)).encode())
    return digest.hexdigest()
