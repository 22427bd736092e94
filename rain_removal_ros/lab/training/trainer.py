"""The trainer: one loop for restoration and for segmentation, on a CPU, a GPU, or many machines (through
accelerate).

A run lives in one folder: checkpoint.pt (everything that resuming needs, its settings inside),
weights.safetensors (the averaged weights; of a finished run, calibrated for 8-bit integers), log.csv,
log.png, and sheets of sample pictures.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from rain_removal_ros.errors import DatasetError, OutputError, PresetError, WeightsError
from rain_removal_ros.lab.data.examples import Dataset
from rain_removal_ros.lab.training import losses
from rain_removal_ros.lab.training.imagenet import load_imagenet
from rain_removal_ros.lab.training.samples import RainySamples, SampleSettings
from rain_removal_ros.network import (
    MAX_PIXELS_PER_METRE,
    build_network,
    load_network,
    require_layers,
    save_network,
    sha256_of,
)
from rain_removal_ros.network.presets import DerainPreset, Preset, SegmentationPreset
from rain_removal_ros.network.quantisation import calibrate
from rain_removal_ros.output import write_bytes


@dataclass(frozen=True)
class LossWeights:
    """What each term of the loss counts; 0 leaves it out (and, for depth, leaves the depth head untaught)."""

    image: float = 1.0
    fidelity: float = 0.08
    gradient: float = 0.5
    structural: float = 0.1
    harm: float = 1.0
    depth: float = 0.05
    distance: float = 0.025
    semantic: float = 0.04
    perceptual: float = 0.1
    streaks: float = 1.0
    presence: float = 0.02
    extinction: float = 0.06
    airlight: float = 0.2


PARTS = ("all", "streaks", "fog", "depth")
"""What of the network `fast` a run trains: all of it, where the whole restoration teaches the streak stage
too; the streak stage alone; all but the streak stage, on samples whose streaks were taken off, all but a
little, by rendering; on the same, what finds depth.
"""

FIND_DEPTH = ("trunk", "context", "depth_head")
"""Parts of the network `fast` that depth is found with."""


@dataclass(frozen=True)
class TrainingSettings:
    """All that a run depends on besides its data; kept in its checkpoints and in the weights' metadata."""

    preset: Preset
    steps: int
    part: str = "all"  # one of PARTS
    batch: int = 8  # samples a step and process
    learning_rate: float = 1e-3  # AdamW, linear warm-up, then cosine to 0
    trunk_rate: float = 0.3  # of the learning rate, for what ImageNet taught
    warmup_share: float = 0.02
    weight_decay: float = 1e-4
    clip: float = 5.0  # norm of the gradient
    average_decay: float = 0.999  # exponential moving average of the weights
    precision: str = "bf16"  # bf16 | fp16 | no: accelerate's mixed precision
    seed: int = 0
    samples: SampleSettings = field(default_factory=SampleSettings)
    weights: LossWeights = field(default_factory=LossWeights)
    segmentation: str | None = None  # file name of the frozen network of the semantic and perceptual terms
    class_balance: float = (
        0.5  # of a segmentation network's classes: 0 every pixel alike, 1 every class alike
    )
    seen_at: int = 1  # pixels a side that are averaged before that network sees an image: 1 or 2
    frozen: tuple[str, ...] = ()  # layers that keep the weights they start with


CALIBRATION = 64
"""Samples that a finished run's weights are calibrated on for 8-bit integers."""


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
    """The network and its loss in one module, so that distributed training sees one forward pass.

    The frozen segmentation network serves two terms in one pass: its class probabilities the semantic, the
    features of its trunk the perceptual.
    """

    def __init__(self, network: nn.Module, settings: TrainingSettings, segmentation: nn.Module | None):
        super().__init__()
        self.network, self.settings = network, settings
        self._frozen = [segmentation]  # in a list: no part of what is trained, saved or averaged

    def forward(self, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Loss terms (weighted), and for looking at: the restored images or logits, and pixels per metre."""
        settings = self.settings
        if not restores(settings):
            logits = self.network(batch["clean"].float() / 255)
            loss = losses.segmentation_cross_entropy(logits, batch["labels"], settings.class_balance)
            terms = {"cross_entropy": loss}
            return terms, logits, None
        rainy = batch["rainy"].float() / 255
        if settings.part == "streaks":
            return self._streaks(rainy, batch)
        clean = batch["clean"].float() / 255
        weights = settings.weights
        terms: dict[str, Tensor] = {}
        if isinstance(settings.preset, DerainPreset):
            if settings.part in ("fog", "depth"):
                streaks = batch["streaks"].float() * (1 - batch["leftover"][:, None, None, None])
            else:
                streaks, rain_logit = self.network.find_streaks(rainy)
                terms |= self._streak_terms(streaks, rain_logit, batch)
            seen = rainy - streaks
            came = rainy if settings.part == "all" else seen
            if settings.part == "depth":
                depth = self.network.find_depth(seen)
                return self._depth_terms(depth, batch), seen, depth
            correction, depth, fog = self.network.clear_fog(seen)
            restored = seen + correction
            of_fog = weights.presence * losses.presence(fog.logit, batch["fog"])
            terms["presence"] = terms.get("presence", 0) + of_fog
            terms["extinction"] = weights.extinction * losses.extinction_l1(fog.root, batch["extinction"])
            terms["airlight"] = weights.airlight * losses.airlight_l1(fog.airlight, batch["airlight"])
        else:
            correction, depth, _ = self.network(rainy)
            came, restored = rainy, rainy + correction.float()
        terms |= {
            "image": weights.image * losses.image_l1(restored, clean),
            "fidelity": weights.fidelity * losses.fidelity(restored, clean, _knowable(batch)),
            "gradient": weights.gradient * losses.gradient_l1(restored, clean),
            "structural": weights.structural * losses.structural(restored, clean),
            "harm": weights.harm * losses.harm(restored, came, clean),
            **self._depth_terms(depth, batch),
            **self._meaning(restored, clean),
        }
        return terms, restored, depth

    def _depth_terms(self, depth: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weights, truth = self.settings.weights, (batch["pixels_per_metre"], batch["depth_weight"])
        return {
            "depth": weights.depth * losses.depth_l1(depth, *truth),
            "distance": weights.distance * losses.distance_error(depth, *truth),
        }

    def _streaks(self, rainy: Tensor, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, None]:
        light, rain_logit = self.network.find_streaks(rainy)
        restored, without = rainy - light, rainy - torch.nan_to_num(batch["streaks"].float())
        terms = {
            **self._streak_terms(light, rain_logit, batch),
            "structural": self.settings.weights.structural * losses.structural(restored, without),
            **self._meaning(restored, without),
        }
        return terms, restored, None

    def _streak_terms(self, light: Tensor, rain_logit: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        weights = self.settings.weights
        return {
            "streaks": weights.streaks * losses.streaks_l1(light, batch["streaks"].float()),
            "presence": weights.presence * losses.presence(rain_logit, batch["rain"]),
        }

    def _meaning(self, restored: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """The terms of what a segmentation network sees, where there is one."""
        (segmentation,), weights = self._frozen, self.settings.weights
        if segmentation is None or not (weights.semantic or weights.perceptual):
            return {}
        seen, wanted = (F.avg_pool2d(image.clamp(0, 1), self.settings.seen_at) for image in (restored, clean))
        with torch.no_grad():
            features_clean, logits_clean = segmentation.features_and_logits(wanted)
        features, logits = segmentation.features_and_logits(seen)
        return {
            "semantic": weights.semantic * losses.semantic(logits, logits_clean),
            "perceptual": weights.perceptual * losses.perceptual(features, features_clean),
        }


def _knowable(batch: dict[str, Tensor]) -> Tensor:
    """Where what is behind the weather can be known, bool (N, H, W): everywhere but in a sky behind fog."""
    return (batch["pixels_per_metre"] != 0) | (batch["fog"] == 0)[:, None, None]


def start_with(network: nn.Module, trained: nn.Module, layers: Sequence[str] | None = None) -> None:
    """Give a network the weights of a trained one, or only those of its layers of these names.

    Raises WeightsError where they differ.
    """
    try:
        if layers is None:
            network.load_state_dict(trained.state_dict())
        for layer in layers or ():
            network.get_submodule(layer).load_state_dict(trained.get_submodule(layer).state_dict())
    except (RuntimeError, AttributeError) as error:
        raise WeightsError(
            f"the weights to start from, of preset {trained.preset.name}, do not fit preset "
            f"{network.preset.name}: {error}"
        ) from error


def choose_part(network: nn.Module, settings: TrainingSettings, datasets: Sequence[Dataset]) -> None:
    """Let only the part of the network learn that the settings name.

    Raises PresetError where the preset has no such part, DatasetError where no dataset can teach it.
    """
    if settings.part not in PARTS:
        raise PresetError(f"unknown part {settings.part!r}; choose {', '.join(PARTS)}")
    if not isinstance(settings.preset, DerainPreset):
        if settings.part != "all":
            raise PresetError(f"preset {settings.preset.name} has no part {settings.part!r} to train alone")
        return
    if settings.part != "all" and all(dataset[0].rainy is not None for dataset in datasets):
        raise DatasetError(
            f"the part {settings.part!r} learns from rendered rain; all the datasets have their own"
        )
    learns = {
        "all": lambda name: True,
        "streaks": lambda name: name == "streaks",
        "fog": lambda name: name != "streaks",
        "depth": lambda name: name in FIND_DEPTH,
    }[settings.part]
    for name, part in network.named_children():
        part.requires_grad_(learns(name))


def freeze(network: nn.Module, layers: Sequence[str]) -> None:
    """Let layers, named as `network.named_modules()` names them, keep their weights.

    Raises PresetError for a layer that the network has not, or where nothing is left to train.
    """
    require_layers(network, layers)
    for layer in layers:
        network.get_submodule(layer).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PresetError(f"nothing is left to train when {', '.join(layers)} are frozen")


def parameter_groups(network: nn.Module, settings: TrainingSettings) -> list[dict]:
    """What learns, for the optimizer: biases without weight decay, a trunk at its share of the learning
    rate.
    """
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("trunk."), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decayed else 0.0,
            "rate": settings.trunk_rate if trunk else 1.0,
        }
        for (trunk, decayed), parameters in groups.items()
    ]


def sample_sheet(
    batch: dict[str, Tensor], restored: Tensor, depth: Tensor | None, count: int = 6
) -> np.ndarray:
    """uint8 BGR picture: a row each of rainy, restored and clean samples and, where there is one, of their
    estimated pixels per metre.
    """

    def tiles(images: Tensor) -> np.ndarray:
        return np.hstack(list(images[:count].detach().permute(0, 2, 3, 1).clamp(0, 255).byte().cpu().numpy()))

    rows = [tiles(batch["rainy"].float()), tiles(255 * restored.float()), tiles(batch["clean"].float())]
    sheet = cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR)
    if depth is None:
        return sheet
    side = restored.shape[-1]
    share = (depth[:count, 0].detach().float() / MAX_PIXELS_PER_METRE).clamp(0, 1).sqrt().sqrt().cpu().numpy()
    depth_tiles = [cv2.resize((255 * tile).astype(np.uint8), (side, side)) for tile in share]
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
    streaks_from: Path | None = None,
    show_progress: bool = True,
) -> Path:
    """Train (or resume what lies in `output`) and return the path of the averaged weights.

    `stop_after` seconds the run is checkpointed and left, to be resumed. `start_from` gives first weights,
    `streaks_from` those of the streak stage; else a trunk begins with what ImageNet taught it. The weights
    that come out name those files, the segmentation network's, and their SHA-256. Raises WeightsError where
    `output` holds a run with other settings, other first weights, another segmentation network, or without
    the gradients' scale that this one needs, or where the first weights do not fit, DatasetError where there
    is nothing to train on, PresetError where a part is to be trained that the preset has not.
    """
    began = time.monotonic()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=not torch.cuda.is_available())
    network = build_network(settings.preset)
    sources = {
        "start_from": start_from,
        "streaks_from": streaks_from,
        "segmentation_weights": segmentation_weights,
    }
    if start_from is not None:
        start_with(network, load_network(start_from)[0])
    elif hasattr(network, "trunk"):
        load_imagenet(network.trunk, settings.preset.trunk)
    if streaks_from is not None:
        start_with(network, load_network(streaks_from)[0], ("streaks",))
    network.to(accelerator.device, memory_format=torch.channels_last)
    segmentation = None
    if segmentation_weights is not None:
        segmentation = load_network(segmentation_weights)[0].requires_grad_(False)
        segmentation.to(accelerator.device, memory_format=torch.channels_last)
    origin = {role: _named(file) for role, file in sources.items() if file is not None}
    if not restores(settings) and not any(d[0].labels is not None for d in datasets):
        raise DatasetError("a segmentation network needs labels; none of the datasets has any")
    choose_part(network, settings, datasets)
    freeze(network, settings.frozen)

    objective = Objective(network, settings, segmentation)
    optimizer = torch.optim.AdamW(parameter_groups(network, settings), lr=settings.learning_rate, fused=True)
    average = AveragedWeights(network, settings.average_decay)

    checkpoint_path = output / "checkpoint.pt"
    step = 0
    if checkpoint_path.is_file():
        checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        require_same_run(checkpoint_path, checkpoint, settings, sources)
        shared_by = checkpoint.get("processes", accelerator.num_processes)  # older ones do not say
        if shared_by != accelerator.num_processes:
            raise WeightsError(
                f"{checkpoint_path} is of a run that {shared_by} processes share, not "
                f"{accelerator.num_processes}, to whom other samples would come; give as many"
            )
        if accelerator.scaler is not None:
            if checkpoint.get("scaler") is None:
                raise WeightsError(
                    f"{checkpoint_path} does not hold the scale of the gradients, without which a run with "
                    f"precision {settings.precision} does not go on as it was; give another output folder"
                )
            accelerator.scaler.load_state_dict(checkpoint["scaler"])
        network.load_state_dict(checkpoint["network"])
        average.network.load_state_dict(checkpoint["average"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        step = checkpoint["step"]
        origin = checkpoint["origin"]

    objective, optimizer = accelerator.prepare(objective, optimizer)
    consumed = step * settings.batch * accelerator.num_processes
    total = settings.steps * settings.batch * accelerator.num_processes
    samples = RainySamples(
        datasets,
        settings.samples,
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
        training = {
            **plain_settings(settings),
            "step": step,
            **origin,
            "processes": accelerator.num_processes,
            "examples": samples.example_count,
            "torch": torch.__version__,
        }
        if step == settings.steps and isinstance(settings.preset, DerainPreset):
            drawn = (samples[i]["rainy"] for i in range(min(CALIBRATION, total)))
            images = (image[None].to(accelerator.device) / 255 for image in drawn)
            average.network.input_ranges = calibrate(average.network, images)
        save_network(average.network, output / "weights.safetensors", training)
        # the checkpoint last: what it says is finished must be there
        state = {
            "settings": plain_settings(settings),
            "step": step,
            "origin": origin,
            "processes": accelerator.num_processes,
            "network": network.state_dict(),
            "average": average.network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": None if accelerator.scaler is None else accelerator.scaler.state_dict(),
        }
        content = io.BytesIO()  # on a full disk PyTorch's own writer says nothing of it
        torch.save(state, content)
        write_bytes(checkpoint_path, content.getvalue())

    progress = tqdm(
        total=settings.steps,
        initial=step,
        desc=f"train {settings.preset.name}",
        disable=not (show_progress and accelerator.is_local_main_process),
        mininterval=2,
    )
    log = LogFile(output / "log.csv", step) if accelerator.is_main_process else None
    pending: list[Tensor] = []
    names: list[str] = []
    logged_step, logged_at = step, time.monotonic()
    objective.train()
    for batch in loader:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings) * group["rate"]
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
        with accelerator.autocast():
            terms, prediction, depth = objective(batch)
        accelerator.backward(sum(terms.values()))
        norm = accelerator.clip_grad_norm_(network.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        average.update(network, step)
        names = list(terms)
        pending.append(torch.stack([*(term.detach().float() for term in terms.values()), norm.float()]))
        progress.update()
        out_of_time = (
            stop_after is not None
            and step % 10 == 0
            and _agreed(time.monotonic() - began > stop_after, accelerator)
        )
        if step % 50 == 0 or step == settings.steps or out_of_time:
            *means, mean_norm = torch.stack(pending).mean(0).tolist()
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
                log.write(
                    step,
                    learning_rate_at(step, settings),
                    rate,
                    mean_norm,
                    dict(zip(names, means, strict=True)),
                )
                logged_step, logged_at = step, time.monotonic()
        if step % checkpoint_every == 0 or step == settings.steps or out_of_time:
            save()
            if restores(settings) and accelerator.is_main_process:
                sheet = sample_sheet(batch, prediction, depth)
                path = output / f"sheet_{step:07d}.jpg"
                if not cv2.imwrite(str(path), sheet):
                    raise OutputError(f"{path} cannot be written; make room, and the same run goes on")
        if out_of_time:
            break
    progress.close()
    if log is not None:
        log.plot(output / "log.png")
    accelerator.wait_for_everyone()  # the next stage begins with what the main process wrote
    return output / "weights.safetensors"


def _named(weights: Path) -> dict[str, str]:
    """A weights file as checkpoints and the metadata of other weights name it."""
    return {"file": weights.name, "sha256": sha256_of(weights)}


def _agreed(mine: bool, accelerator: Accelerator) -> bool:
    """What the main process says: every process reads its own clock, and one that stopped alone would be
    waited for for ever.
    """
    return bool(broadcast(torch.tensor([float(mine)], device=accelerator.device)).item())


_ORIGINS = {
    "start_from": "first weights",
    "streaks_from": "first weights of the streak stage",
    "segmentation_weights": "segmentation network",
}


def require_same_run(
    checkpoint_path: Path,
    checkpoint: Mapping[str, Any],
    settings: TrainingSettings,
    sources: Mapping[str, Path | None],
) -> None:
    """Raise WeightsError unless a checkpoint is of a run with these settings that began with these files;
    none given stands for any.
    """
    if checkpoint["settings"] != plain_settings(settings):
        raise WeightsError(
            f"{checkpoint_path} belongs to a run with other settings; give another output folder or "
            "the same settings"
        )
    for role, file in sources.items():
        began = checkpoint["origin"].get(role)
        if file is None or (began is None and role == "segmentation_weights"):  # older runs do not name it
            continue
        digest = sha256_of(file)
        if began is None or began["sha256"] != digest:
            theirs = f"{began['file']} of SHA-256 {began['sha256'][:12]}" if began else "of its own"
            raise WeightsError(
                f"{checkpoint_path} belongs to a run with {_ORIGINS[role]} {theirs}, not {file} of "
                f"{digest[:12]}; give another output folder or the same file"
            )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What lies in a checkpoint, its tensors read as they are needed."""
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def finished_steps(output: Path) -> int:
    """How many steps the run in a folder has made; 0 where there is none."""
    checkpoint = output / "checkpoint.pt"
    if not checkpoint.is_file():
        return 0
    return load_checkpoint(checkpoint)["step"]


def plain_settings(settings: TrainingSettings) -> dict:
    """The settings as plain values: what a checkpoint and a weights file keep."""
    return dataclasses.asdict(settings)


class LogFile:
    """Loss terms by step in a CSV file, which grows when a run is resumed, and their plot."""

    def __init__(self, path: Path, step: int):
        """Rows after `step` are of a run that was cut off and is now repeated from its checkpoint: they
        go.
        """
        self.path = path
        if path.exists():
            with open(path, newline="") as file:
                header, *rows = list(csv.reader(file)) or [[]]
            with open(path, "w", newline="") as file:
                csv.writer(file).writerows(
                    [header, *(row for row in rows if row and row[0].isdigit() and int(row[0]) <= step)]
                )

    def write(
        self,
        step: int,
        learning_rate: float,
        samples_per_second: float,
        gradient_norm: float,
        terms: dict[str, float],
    ) -> None:
        row = {
            "step": step,
            "learning_rate": f"{learning_rate:.6g}",
            "samples_per_second": f"{samples_per_second:.1f}",
            "gradient_norm": f"{gradient_norm:.4g}",
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
        beside = ("step", "learning_rate", "samples_per_second", "gradient_norm")
        for name in [key for key in rows[0] if key not in beside]:
            axes.plot([int(row["step"]) for row in rows], [float(row[name]) for row in rows], label=name)
        axes.set(xlabel="step", ylabel="loss (weighted)")
        axes.set_yscale("symlog", linthresh=1e-3)
        axes.legend()
        figure.tight_layout()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)
