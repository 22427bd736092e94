"""The trainer: one loop for restoration and for segmentation, on a CPU, a GPU, or many machines (through
accelerate).

A run lives in one folder: checkpoint.pt (everything that resuming needs, its settings inside),
weights.safetensors (the averaged weights), log.csv, log.png, and sheets of sample pictures.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from rain_removal_ros.errors import DatasetError, PresetError, WeightsError
from rain_removal_ros.lab.baselines.efficientnet import JudgeNetwork, PerceptualFeatures
from rain_removal_ros.lab.data.datasets import Dataset
from rain_removal_ros.lab.training import losses
from rain_removal_ros.lab.training.crops import CropSettings, RainySamples
from rain_removal_ros.network import (
    MAX_INVERSE_DEPTH,
    build_network,
    fold_batch_norms,
    load_network,
    require_layers,
    save_network,
    sha256_of,
)
from rain_removal_ros.network.presets import Preset, SegmentationPreset


@dataclass(frozen=True)
class LossWeights:
    """What each term of the loss counts; 0 leaves it out (and, for depth, leaves the depth head untaught)."""

    image: float = 1.0
    fidelity: float = 0.08
    gradient: float = 0.5
    coarse_gradient: float = 0.0
    structural: float = 0.1
    depth: float = 0.1
    semantic: float = 0.04
    perceptual: float = 0.0
    streaks: float = 0.2


@dataclass(frozen=True)
class TrainingSettings:
    """All that a run depends on besides its data; kept in its checkpoints and in the weights' metadata."""

    preset: Preset
    steps: int
    batch: int = 8  # samples a step and process
    learning_rate: float = 1e-3  # AdamW, linear warm-up, then cosine to 0
    warmup_share: float = 0.02
    weight_decay: float = 1e-4
    clip: float = 1.0  # norm of the gradient
    average_decay: float = 0.999  # exponential moving average of the weights
    freeze_norms_after: float = (
        0.8  # share of the run after which batch norm uses, and keeps, its running statistics
    )
    precision: str = "bf16"  # bf16 | fp16 | no: accelerate's mixed precision
    seed: int = 0
    crops: CropSettings = field(default_factory=CropSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    segmentation: str | None = None  # file name of the frozen network of the semantic loss
    streaks_alone: bool = False  # train the streak stage by its own term, and nothing else
    frozen: tuple[str, ...] = ()  # layers that keep the weights they start with


class AveragedWeights:
    """Exponential moving average of a network's weights and running statistics, itself a network."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.network = build_network(network.preset).to(next(network.parameters()).device).eval()
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the network; young averages forget faster, so that the first weights do not linger."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        floating = [(mine, new) for mine, new in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floating], [new for _, new in floating], 1 - decay)


def learning_rate_at(step: int, settings: TrainingSettings) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(settings.warmup_share * settings.steps))
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, settings.steps - warmup)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def restores(settings: TrainingSettings) -> bool:
    """Whether a run trains a derain network, and not a segmentation network."""
    return not isinstance(settings.preset, SegmentationPreset)


class Objective(nn.Module):
    """The network under training together with its loss: a batch in, named loss terms out."""

    def __init__(self, network: nn.Module, settings: TrainingSettings, segmentation: nn.Module | None):
        super().__init__()
        self.network, self.settings = network, settings
        features = None
        if settings.weights.perceptual and restores(settings):
            features = PerceptualFeatures()
            features.to(next(network.parameters()).device, memory_format=torch.channels_last)
        self._frozen = [segmentation, features]  # in a list: no part of what is trained, saved or averaged

    def forward(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Loss terms (weighted), and for looking at: the restored images or logits, and the inverse depth."""
        clean = batch["clean"].float() / 255
        if not restores(self.settings):
            logits = self.network(clean)
            terms = {"cross_entropy": losses.segmentation_cross_entropy(logits, batch["labels"])}
            return terms, logits, None
        rainy = batch["rainy"].float() / 255
        weights = self.settings.weights
        streak_term = {}
        if self.network.preset.streak_channels:
            streaks = self.network.streaks(rainy)
            streak_term["streaks"] = weights.streaks * losses.streaks_l1(streaks, batch["streaks"])
            if self.settings.streaks_alone:
                return streak_term, rainy - streaks, None
            correction, inverse_depth = self.network.restore(rainy, streaks)
        else:
            correction, inverse_depth = self.network(rainy)
        restored = rainy + correction.float()
        terms = {
            "image": weights.image * losses.image_l1(restored, clean),
            "fidelity": weights.fidelity * losses.fidelity(restored, clean),
            "gradient": weights.gradient * losses.gradient_l1(restored, clean),
            "coarse_gradient": weights.coarse_gradient * losses.coarse_gradient_l1(restored, clean),
            "structural": weights.structural * losses.structural(restored, clean),
            "depth": weights.depth * losses.depth_l1(inverse_depth, batch["inverse_depth"]),
            **streak_term,
        }
        segmentation, features = self._frozen
        if segmentation is not None and weights.semantic:
            with torch.no_grad():
                logits_clean = segmentation(clean)
            logits_restored = segmentation(restored.clamp(0, 1))
            terms["semantic"] = weights.semantic * losses.semantic(logits_restored, logits_clean)
        if features is not None:
            with torch.no_grad():
                features_clean = features(clean)
            features_restored = features(restored.clamp(0, 1))
            terms["perceptual"] = weights.perceptual * losses.perceptual(features_restored, features_clean)
        return terms, restored, inverse_depth


def start_with(network: nn.Module, trained: nn.Module) -> None:
    """Give a network the weights of a trained one; a streak stage that the trained one lacks stays as it is.

    Raises WeightsError where they differ in anything else.
    """
    try:
        missing, unexpected = network.load_state_dict(trained.state_dict(), strict=False)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights to start from do not fit preset {network.preset.name}: {error}"
        ) from error
    missing = [name for name in missing if not name.startswith("streaks.")]
    if missing or unexpected:
        raise WeightsError(
            f"the weights to start from, of preset {trained.preset.name}, do not fit preset "
            f"{network.preset.name}: {(missing + unexpected)[0]} is only in one of them"
        )


def freeze_norms(part: nn.Module) -> None:
    """Let every batch norm in a network or layer use, and keep, its running statistics from now on."""
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def freeze(network: nn.Module, layers: Sequence[str]) -> None:
    """Let layers, named as `network.named_modules()` names them, keep their weights.

    Raises PresetError for a layer that the network has not, or where nothing is left to train.
    """
    require_layers(network, layers)
    for layer in layers:
        network.get_submodule(layer).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PresetError(f"nothing is left to train when {', '.join(layers)} are frozen")


def sample_sheet(
    batch: dict[str, Tensor], restored: Tensor, inverse_depth: Tensor | None, count: int = 6
) -> np.ndarray:
    """uint8 BGR picture: a row each of rainy, restored and clean samples and, where there is one, of their
    estimated inverse depth.
    """

    def tiles(images: Tensor) -> np.ndarray:
        return np.hstack(list(images[:count].detach().permute(0, 2, 3, 1).clamp(0, 255).byte().cpu().numpy()))

    rows = [tiles(batch["rainy"].float()), tiles(255 * restored.float()), tiles(batch["clean"].float())]
    sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    if inverse_depth is None:
        return sheet
    side = restored.shape[-1]
    depth = (inverse_depth[:count, 0].detach().float() / MAX_INVERSE_DEPTH).sqrt().clamp(0, 1).cpu().numpy()
    depth_tiles = [cv2.resize((255 * tile).astype(np.uint8), (side, side)) for tile in depth]
    coloured = cv2.applyColorMap(np.hstack(depth_tiles), cv2.COLORMAP_MAGMA)
    return np.vstack([sheet, coloured])


def train(
    settings: TrainingSettings,
    datasets: Sequence[Dataset],
    output: Path,
    segmentation_weights: Path | None = None,
    workers: int = 2,
    checkpoint_every: int = 500,
    stop_after: float | None = None,
    start_from: Path | None = None,
    show_progress: bool = True,
) -> Path:
    """Train (or resume what lies in `output`) and return the path of the averaged weights.

    `stop_after` seconds the run is checkpointed and left, to be resumed. `start_from` gives first weights;
    the weights that come out name that file and its SHA-256. Raises WeightsError where `output` holds a run
    with other settings or `start_from` does not fit, DatasetError where there is nothing to train on,
    PresetError where a streak stage is to be trained, or a layer frozen, that the preset has not.
    """
    began = time.monotonic()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    accelerator = Accelerator(mixed_precision=settings.precision)
    network = build_network(settings.preset)
    origin = None
    if start_from is not None:
        start_with(network, load_network(start_from)[0])
        origin = {"file": start_from.name, "sha256": sha256_of(start_from)}
    elif isinstance(network, JudgeNetwork):
        network.load_pretrained()
    network.to(accelerator.device, memory_format=torch.channels_last)
    segmentation = None
    if segmentation_weights is not None:
        segmentation = fold_batch_norms(load_network(segmentation_weights)[0]).requires_grad_(False)
        segmentation.to(accelerator.device, memory_format=torch.channels_last)
    if not restores(settings) and not any(d[0].labels is not None for d in datasets):
        raise DatasetError("a segmentation network needs labels; none of the datasets has any")

    if settings.streaks_alone:
        if not getattr(settings.preset, "streak_channels", 0):
            raise PresetError(
                f"preset {settings.preset.name} has no streak stage that could be trained alone"
            )
        if all(dataset[0].rainy is not None for dataset in datasets):
            raise DatasetError("the streak stage learns from rendered rain; all the datasets have their own")
        freeze(network, [name for name, _ in network.named_children() if name != "streaks"])
    freeze(network, settings.frozen)

    objective = Objective(network, settings, segmentation)
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        fused=True,
    )
    average = AveragedWeights(network, settings.average_decay)

    checkpoint_path = output / "checkpoint.pt"
    step = 0
    if checkpoint_path.is_file():
        checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        if checkpoint["settings"] != plain_settings(settings):
            raise WeightsError(
                f"{checkpoint_path} belongs to a run with other settings; give another output folder or "
                "the same settings"
            )
        network.load_state_dict(checkpoint["network"])
        average.network.load_state_dict(checkpoint["average"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        step = checkpoint["step"]
        origin = checkpoint.get("start_from")

    objective, optimizer = accelerator.prepare(objective, optimizer)
    consumed = step * settings.batch * accelerator.num_processes
    total = settings.steps * settings.batch * accelerator.num_processes
    samples = RainySamples(
        datasets,
        settings.crops,
        settings.seed,
        total,
        rain=restores(settings),
    )
    loader = accelerator.prepare_data_loader(
        DataLoader(
            Subset(samples, range(consumed, total)),
            batch_size=settings.batch,
            num_workers=workers,
            pin_memory=accelerator.device.type == "cuda",
            drop_last=True,
            prefetch_factor=4 if workers else None,
        )
    )

    def save() -> None:
        if not accelerator.is_main_process:
            return
        state = {
            "settings": plain_settings(settings),
            "step": step,
            "start_from": origin,
            "network": network.state_dict(),
            "average": average.network.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        temporary = checkpoint_path.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.replace(checkpoint_path)
        training = {
            **plain_settings(settings),
            "step": step,
            "start_from": origin,
            "processes": accelerator.num_processes,
            "examples": samples.example_count,
            "torch": torch.__version__,
        }
        save_network(average.network, output / "weights.safetensors", training)

    progress = tqdm(
        total=settings.steps,
        initial=step,
        desc=f"train {settings.preset.name}",
        disable=not (show_progress and accelerator.is_local_main_process),
        mininterval=2,
    )
    log = LogFile(output / "log.csv") if accelerator.is_main_process else None
    pending: list[Tensor] = []
    names: list[str] = []
    logged_step, logged_at = step, time.monotonic()
    objective.train()
    for layer in settings.frozen:
        freeze_norms(network.get_submodule(layer))
    for batch in loader:
        if step >= settings.freeze_norms_after * settings.steps:
            freeze_norms(network)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        with accelerator.autocast():
            terms, prediction, inverse_depth = objective(batch)
        accelerator.backward(sum(terms.values()))
        accelerator.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        average.update(network, step)
        names = list(terms)
        pending.append(torch.stack([term.detach().float() for term in terms.values()]))
        progress.update()
        out_of_time = stop_after is not None and time.monotonic() - began > stop_after
        if step % 50 == 0 or step == settings.steps or out_of_time:
            means = torch.stack(pending).mean(0).tolist()
            pending.clear()
            if not all(map(math.isfinite, means)):
                raise FloatingPointError(
                    f"the loss is not finite at step {step}: {dict(zip(names, means, strict=True))}"
                )
            progress.set_postfix({name: f"{value:.4f}" for name, value in zip(names, means, strict=True)})
            if log is not None:
                rate = (
                    (step - logged_step)
                    * settings.batch
                    * accelerator.num_processes
                    / (time.monotonic() - logged_at)
                )
                log.write(step, learning_rate_at(step, settings), rate, dict(zip(names, means, strict=True)))
                logged_step, logged_at = step, time.monotonic()
        if step % checkpoint_every == 0 or step == settings.steps or out_of_time:
            save()
            if restores(settings) and accelerator.is_main_process:
                sheet = sample_sheet(batch, prediction, inverse_depth)
                cv2.imwrite(str(output / f"sheet_{step:07d}.jpg"), sheet)
        if out_of_time:
            break
    progress.close()
    if log is not None:
        log.plot(output / "log.png")
    accelerator.end_training()
    return output / "weights.safetensors"


def plain_settings(settings: TrainingSettings) -> dict:
    """The settings as plain values: what a checkpoint and a weights file keep."""
    return dataclasses.asdict(settings)


class LogFile:
    """Loss terms by step in a CSV file, which grows when a run is resumed, and their plot."""

    def __init__(self, path: Path):
        self.path = path

    def write(
        self, step: int, learning_rate: float, samples_per_second: float, terms: dict[str, float]
    ) -> None:
        row = {
            "step": step,
            "learning_rate": f"{learning_rate:.6g}",
            "samples_per_second": f"{samples_per_second:.1f}",
        } | {k: f"{v:.6g}" for k, v in terms.items()}
        fresh = not self.path.exists()
        with open(self.path, "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def plot(self, path: Path) -> None:
        """Draw every term over the steps, on a logarithmic scale."""
        if not self.path.exists():
            return
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        with open(self.path, newline="") as file:
            rows = list(csv.DictReader(file))
        figure, axes = pyplot.subplots(figsize=(9, 5))
        for name in [key for key in rows[0] if key not in ("step", "learning_rate", "samples_per_second")]:
            axes.plot([int(row["step"]) for row in rows], [float(row[name]) for row in rows], label=name)
        axes.set(xlabel="step", ylabel="loss (weighted)")
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.legend()
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
