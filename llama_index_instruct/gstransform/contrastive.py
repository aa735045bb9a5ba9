"""``method="contrastive"``: the paper's trained encoder (arXiv 2505.24754, section 3), and the released two-layer variant.

The paper states a linear encoder and decoder; the released code has ``Linear(d, 512) + ReLU + Linear(512, h)``. Both are here.
Unlike the released code, the weights of the best validation epoch are really restored, and a seed fixes everything.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from llama_index_instruct.errors import ConfigurationError
from llama_index_instruct.gstransform.classes import Classes

if TYPE_CHECKING:
    import torch

FloatArray = npt.NDArray[np.float64]
Layer = tuple[FloatArray, FloatArray]


@dataclass(frozen=True)
class ContrastiveSettings:
    """Settings of ``method="contrastive"`` and ``"contrastive-mlp"``; defaults as released.

    Attributes:
        dimension: Size of the output, h.
        hidden: Width of the ReLU layer of the two-layer variant.
        margin: Distance beyond which two classes no longer push each other.
        contrastive_weight: beta1, of the pull and push.
        reconstruction_weight: beta2, of the mean squared error of decoding.
        learning_rate: Of Adam.
        batch_size: Texts per step.
        epochs: Largest number of passes.
        patience: Passes without a better validation loss before training stops.
        validation_share: Share of each class that is held out to decide when to stop.
        input_scale: Factor on unit vectors before the first layer; None = sqrt(d) / 2, about the norm of the released code's
            raw vectors. At norm 1 the reconstruction counts for nothing and the margin is out of reach.

    Raises:
        ConfigurationError: If a value is out of range.
    """

    dimension: int = 64
    hidden: int = 512
    margin: float = 10.0
    contrastive_weight: float = 1.0
    reconstruction_weight: float = 1.0
    learning_rate: float = 1e-4
    batch_size: int = 64
    epochs: int = 500
    patience: int = 10
    validation_share: float = 0.2
    input_scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("dimension", "hidden", "batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        for name in ("margin", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name}: expected a positive number, found {getattr(self, name)}")
        if not 0.0 < self.validation_share < 1.0:
            raise ConfigurationError(f"validation_share: expected between 0 and 1, found {self.validation_share}")
        if self.input_scale is not None and not self.input_scale > 0:
            raise ConfigurationError(f"input_scale: expected a positive number or None, found {self.input_scale}")

    def scale(self, size: int) -> float:
        """Return the factor on unit vectors of that size."""
        return self.input_scale if self.input_scale is not None else float(np.sqrt(size)) / 2.0


@dataclass(frozen=True, eq=False)
class ContrastiveFit:
    """The trained encoder.

    Attributes:
        layers: Weight (out, in) and bias (out,) of each layer, a ReLU between them.
        training_loss: Mean per epoch.
        validation_loss: Per epoch.
        best_epoch: The epoch whose weights these are, counted from 0.
    """

    layers: tuple[Layer, ...]
    training_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_epoch: int


def fit_contrastive(
    vectors: FloatArray, classes: Classes, settings: ContrastiveSettings, *, two_layers: bool, seed: int
) -> ContrastiveFit:
    """Train the encoder on vectors (n, d), already scaled, and their classes.

    Args:
        vectors: Shape (n, d); rows without a label are left out.
        classes: n rows; of soft labels the likeliest class counts.
        settings: See ``ContrastiveSettings``.
        two_layers: The released code's architecture instead of the paper's.
        seed: Of split, start and order.
    """
    import torch

    codes = classes.codes
    train_rows, held_out = _stratified_split(codes, settings.validation_share, np.random.default_rng(seed))
    generator = torch.Generator().manual_seed(seed)
    points = torch.tensor(vectors, dtype=torch.float32)
    labels = torch.tensor(codes)
    size = points.shape[1]
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the accelerators too, and nothing would put them back.
        torch.default_generator.manual_seed(seed)
        encoder = _encoder(size, settings, two_layers)
        decoder = torch.nn.Linear(settings.dimension, size)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=settings.learning_rate)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        z = encoder(points[rows])
        return settings.contrastive_weight * contrastive_loss(
            z, labels[rows], settings.margin
        ) + settings.reconstruction_weight * torch.nn.functional.mse_loss(decoder(z), points[rows])

    train, validation = torch.from_numpy(train_rows), torch.from_numpy(held_out)
    best, best_epoch, best_loss = copy.deepcopy(encoder.state_dict()), -1, float("inf")
    training: list[float] = []
    validating: list[float] = []
    for epoch in range(settings.epochs):
        total = 0.0
        for rows in train[torch.randperm(len(train), generator=generator)].split(settings.batch_size):  # type: ignore[no-untyped-call]
            loss = loss_of(rows)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach()) * len(rows)
        training.append(total / len(train))
        with torch.no_grad():
            parts = validation.split(settings.batch_size)  # type: ignore[no-untyped-call]
            held = [(float(loss_of(rows)), len(rows)) for rows in parts]
        validating.append(sum(loss * count for loss, count in held) / len(validation))
        if validating[-1] < best_loss:
            # state_dict() returns views of the weights that go on changing: without a copy nothing would be restored.
            best, best_epoch, best_loss = copy.deepcopy(encoder.state_dict()), epoch, validating[-1]
        elif epoch - best_epoch >= settings.patience:
            break
    if best_epoch < 0:
        raise ConfigurationError("contrastive: training diverged, no validation loss was finite; lower learning_rate")
    encoder.load_state_dict(best)
    layers = tuple(_as_layer(part) for part in encoder if isinstance(part, torch.nn.Linear))
    return ContrastiveFit(layers, tuple(training), tuple(validating), best_epoch)


def contrastive_loss(z: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    """Return the mean, over all ordered pairs, of D^2 within a class and max(0, margin - D)^2 between classes.

    Args:
        z: Encoded batch, shape (B, h).
        labels: Shape (B,).
        margin: See ``ContrastiveSettings``.
    """
    import torch

    # The fast path of cdist leaves distances on the diagonal; the mask also keeps the root's gradient finite there.
    distances = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == labels[None, :]
    return torch.where(same, distances**2, torch.clamp(margin - distances, min=0.0) ** 2).mean()


def _encoder(size: int, settings: ContrastiveSettings, two_layers: bool) -> torch.nn.Sequential:
    import torch

    if not two_layers:
        return torch.nn.Sequential(torch.nn.Linear(size, settings.dimension))
    return torch.nn.Sequential(
        torch.nn.Linear(size, settings.hidden), torch.nn.ReLU(), torch.nn.Linear(settings.hidden, settings.dimension)
    )


def _as_layer(part: torch.nn.Linear) -> Layer:
    weight = part.weight.detach().numpy().astype(np.float64)
    return weight, part.bias.detach().numpy().astype(np.float64)


def _stratified_split(
    codes: npt.NDArray[np.intp], share: float, generator: np.random.Generator
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Hold out a share of every class, rounded down so that a class of one stays in training; at least one row in all."""
    held = [
        generator.permutation(np.flatnonzero(codes == code))[: int(share * np.sum(codes == code))]
        for code in range(codes.max() + 1)
    ]
    held_out = np.sort(np.concatenate(held))
    if not len(held_out):
        held_out = generator.permutation(np.flatnonzero(codes >= 0))[:1]
    train = np.setdiff1d(np.flatnonzero(codes >= 0), held_out)
    return train, held_out
