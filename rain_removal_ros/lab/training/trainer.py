"""The trainer: one loop for restoration and for segmentation, on a CPU, a GPU, or many machines (through
accelerate).

A run lives in one folder: checkpoint.pt (everything that resuming needs, its settings inside),
weights.safetensors (the averaged weights; of a finished run, calibrated for 8-bit integers), log.csv,
log.png, sheets of sample pictures, and validation.csv where it is validated.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast, send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

import rain_removal_ros.lab.baselines  # noqa: F401  weights of the networks to compare with can be loaded
from rain_removal_ros.errors import DatasetError, PresetError, RainRemovalError, WeightsError
from rain_removal_ros.lab.data.examples import Dataset
from rain_removal_ros.lab.training.imagenet import load_imagenet
from rain_removal_ros.lab.training.objective import Objective
from rain_removal_ros.lab.training.run_files import LogFile, Meter, Reading, StepTable, write_sheet
from rain_removal_ros.lab.training.samples import RainySamples, Sample
from rain_removal_ros.lab.training.settings import (
    PARTS,
    TrainingSettings,
    learning_rate_at,
    plain_settings,
    restores,
)
from rain_removal_ros.lab.training.validation import Validation, Validator
from rain_removal_ros.network import (
    build_network,
    load_network,
    preset_of,
    require_layers,
    save_network,
    sha256_of,
)
from rain_removal_ros.network.fast import FastDerainNetwork
from rain_removal_ros.network.presets import DerainPreset
from rain_removal_ros.network.quantisation import calibrate
from rain_removal_ros.network.segmentation import SegmentationNetwork
from rain_removal_ros.output import write_bytes

CALIBRATION = 64
"""Samples that a finished run's weights are calibrated on for 8-bit integers."""

LOGGED_EVERY = 50
"""Steps."""

CLOCK_EVERY = 10
"""Steps from one look at the clock to the next, where a run has only so much time."""


PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: the main one measures and writes while the others wait."""

WEIGHING = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""Layers whose weights decay."""


class AveragedWeights:
    """Exponential moving average of a network's weights and running statistics, itself a network."""

    def __init__(self, network: nn.Module, decay: float):
        self.decay = decay
        self.network = build_network(preset_of(network)).to(next(network.parameters()).device).eval()
        self.network.load_state_dict(network.state_dict())

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the network; young averages forget faster, so that the first weights do not linger."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        floating = [(mine, new) for mine, new in pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floating], [new for _, new in floating], 1 - decay)


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
            f"the weights to start from, of preset {preset_of(trained).name}, do not fit preset "
            f"{preset_of(network).name}: {error}"
        ) from error


def choose_part(network: nn.Module, settings: TrainingSettings, datasets: Sequence[Dataset]) -> None:
    """Let only the part of the network learn that the settings name.

    Raises PresetError where the preset has no such part, DatasetError where a dataset cannot teach it.
    """
    if settings.part not in PARTS:
        raise PresetError(f"unknown part {settings.part!r}; choose {', '.join(PARTS)}")
    if not isinstance(settings.preset, DerainPreset):
        if settings.part != "all":
            raise PresetError(f"preset {settings.preset.name} has no part {settings.part!r} to train alone")
        return
    if settings.part != "all" and any(dataset[0].rainy is not None for dataset in datasets):
        raise DatasetError(
            f"the part {settings.part!r} learns from rendered rain alone, and a dataset has its own"
        )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(PARTS[settings.part](name))


def freeze(network: nn.Module, layers: Sequence[str]) -> None:
    """Let layers, named as `network.named_modules()` names them, keep their weights.

    Raises PresetError for a layer that the network has not, or where nothing is left to train.
    """
    require_layers(network, layers)
    for layer in layers:
        network.get_submodule(layer).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise PresetError(f"nothing is left to train when {', '.join(layers)} are frozen")


def parameter_groups(network: nn.Module, settings: TrainingSettings) -> list[dict[str, Any]]:
    """What learns, for the optimizer: the weights of convolutions and linear layers with weight decay,
    biases, norms and scales without, whatever their shape; a trunk at its share of the learning rate.
    """
    decayed = {id(module.weight) for module in network.modules() if isinstance(module, WEIGHING)}
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("trunk."), id(parameter) in decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": settings.weight_decay if decays else 0.0,
            "rate": settings.trunk_rate if trunk else 1.0,
        }
        for (trunk, decays), parameters in groups.items()
    ]


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
    validation: Validation | None = None,
) -> Path:
    """Train (or resume what lies in `output`) and return the path of the averaged weights.

    `stop_after` seconds the run is checkpointed and left, to be resumed; with less than none nothing is done.
    `start_from` gives first weights, `streaks_from` those of the streak stage; else a trunk begins with what
    ImageNet taught it. On `validation` the averaged weights of a derain network are measured at every
    checkpoint, which changes nothing else. The weights that come out name the files above, the segmentation
    network's, and their SHA-256. Raises WeightsError where `output` holds a run with other settings, other
    images, other first weights, another segmentation network, or without the gradients' scale that this one
    needs, where the first weights do not fit, or where `segmentation_weights` are of no segmentation network,
    DatasetError where there is nothing to train on, PresetError where a part is to be trained that the preset
    has not, or terms weigh that need a segmentation network and none is given, RainRemovalError where the
    loss grows beyond all bounds.
    """
    began = time.monotonic()
    sources = {
        "start_from": start_from,
        "streaks_from": streaks_from,
        "segmentation_weights": segmentation_weights,
    }
    run = _Run(settings, datasets, Path(output), sources, validation)
    return run.go_on(workers, checkpoint_every, began, stop_after, show_progress)


class _Run:
    """A run in its folder: the network, its average, its optimizer, and how many steps it has made."""

    def __init__(
        self,
        settings: TrainingSettings,
        datasets: Sequence[Dataset],
        output: Path,
        sources: Mapping[str, Path | None],
        validation: Validation | None,
    ):
        """Begins a run, or takes up the one in the folder. Raises as `train` does."""
        output.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        self.settings, self.output = settings, output
        self.checkpoint_path = output / "checkpoint.pt"
        self.accelerator = Accelerator(
            mixed_precision=settings.precision,
            cpu=not torch.cuda.is_available(),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
        self.network = self._first_network(sources["start_from"], sources["streaks_from"])
        segmentation = self._segmentation(sources["segmentation_weights"])
        self.origin = {role: _named(file) for role, file in sources.items() if file is not None}
        if not restores(settings) and not any(d[0].labels is not None for d in datasets):
            raise DatasetError("a segmentation network needs labels; none of the datasets has any")
        choose_part(self.network, settings, datasets)
        freeze(self.network, settings.frozen)
        objective = Objective(self.network, settings, segmentation)
        groups = parameter_groups(self.network, settings)
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self.average = AveragedWeights(self.network, settings.average_decay)
        self.samples_a_step = settings.batch * self.accelerator.num_processes
        self.samples = RainySamples(
            datasets,
            settings.samples,
            settings.seed,
            settings.steps * self.samples_a_step,
            rain=restores(settings),
        )
        self.validator = None
        if validation is not None and restores(settings) and self.accelerator.is_main_process:
            self.validator = Validator(validation, settings.part, self.accelerator.device)
        self.reported: Mapping[str, float] = {}  # terms of the loss, and figures, as they were read last
        self.validated: Mapping[str, float] = {}
        self.step = 0
        if self.checkpoint_path.is_file():
            self._take_up(optimizer, sources)
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)

    def _first_network(self, start_from: Path | None, streaks_from: Path | None) -> nn.Module:
        network = build_network(self.settings.preset)
        if start_from is not None:
            start_with(network, load_network(start_from)[0])
        elif isinstance(network, FastDerainNetwork | SegmentationNetwork):
            load_imagenet(network.trunk, network.preset.trunk)
        if streaks_from is not None:
            start_with(network, load_network(streaks_from)[0], ("streaks",))
        _move(network, self.accelerator.device)
        return network

    def _segmentation(self, weights: Path | None) -> SegmentationNetwork | None:
        terms = self.settings.weights
        if weights is None and (terms.semantic or terms.perceptual):
            raise PresetError(
                f"weights {terms.semantic:g} and {terms.perceptual:g} of the semantic and perceptual terms "
                "need a segmentation network; give one, or weights of 0"
            )
        if weights is None:
            return None
        segmentation = load_network(weights)[0].requires_grad_(False)
        if not isinstance(segmentation, SegmentationNetwork):
            raise WeightsError(
                f"{weights} holds preset {preset_of(segmentation).name}; the semantic and perceptual terms "
                "need a segmentation network"
            )
        _move(segmentation, self.accelerator.device)
        return segmentation

    def _take_up(self, optimizer: torch.optim.Optimizer, sources: Mapping[str, Path | None]) -> None:
        """Go on from the checkpoint. Raises WeightsError where it is of another run."""
        path, scaler = self.checkpoint_path, self.accelerator.scaler
        checkpoint = load_checkpoint(path)
        require_same_run(path, checkpoint, self.settings, sources)
        processes = self.accelerator.num_processes
        shared_by = checkpoint.get("processes", processes)  # older ones do not say
        if shared_by != processes:
            raise WeightsError(
                f"{path} is of a run that {shared_by} processes share, not {processes}, to whom other "
                "samples would come; give as many"
            )
        if checkpoint.get("drawn_from", self.samples.digest) != self.samples.digest:
            raise WeightsError(
                f"{path} is of a run on other images; give the same, in the same order, or another folder"
            )
        if scaler is not None:
            if checkpoint.get("scaler") is None:
                raise WeightsError(
                    f"{path} does not hold the scale of the gradients, without which a run with precision "
                    f"{self.settings.precision} does not go on as it was; give another output folder"
                )
            scaler.load_state_dict(checkpoint["scaler"])
        self.network.load_state_dict(checkpoint["network"])
        self.average.network.load_state_dict(checkpoint["average"])
        try:
            optimizer.load_state_dict(checkpoint["optimizer"])
        except ValueError as error:
            raise WeightsError(
                f"{path} is of a run in which weight decay was for other weights; give another output folder "
                f"({error})"
            ) from error
        self.step, self.origin = checkpoint["step"], checkpoint["origin"]

    def _loader(self, workers: int) -> DataLoader[Sample]:
        """The samples that are left."""
        left = range(self.step * self.samples_a_step, len(self.samples))
        return self.accelerator.prepare_data_loader(
            DataLoader(
                Subset(self.samples, left),
                batch_size=self.settings.batch,
                num_workers=workers,
                pin_memory=self.accelerator.device.type == "cuda",
                drop_last=True,
                prefetch_factor=4 if workers else None,
            )
        )

    def go_on(
        self, workers: int, checkpoint_every: int, began: float, stop_after: float | None, show: bool
    ) -> Path:
        """Make the steps that are left, or those that the time is enough for; the path of the weights."""
        settings, accelerator = self.settings, self.accelerator
        if stop_after is not None and _agreed(stop_after < 0, accelerator):
            return self.output / "weights.safetensors"
        progress = tqdm(
            total=settings.steps,
            initial=self.step,
            desc=f"train {settings.preset.name}",
            disable=not (show and accelerator.is_local_main_process),
            mininterval=2,
        )
        log = LogFile(self.output / "log.csv", self.step) if accelerator.is_main_process else None
        validations = StepTable(self.output / "validation.csv", self.step) if self.validator else None
        meter = Meter(self.step)
        self.objective.train()
        for loaded in self._loader(workers):
            batch: Sample = send_to_device(loaded, accelerator.device, non_blocking=True)
            terms, norm, prediction, depth = self._learn(batch)
            meter.add(terms, norm)
            progress.update()
            out_of_time = (
                stop_after is not None
                and self.step % CLOCK_EVERY == 0
                and _agreed(time.monotonic() - began > stop_after, accelerator)
            )
            ends = out_of_time or self.step == settings.steps
            saves = ends or self.step % checkpoint_every == 0
            if saves or self.step % LOGGED_EVERY == 0:
                self._report(meter.read(self.step), progress, log)
            if saves and accelerator.is_main_process:
                self._save()
                if restores(settings):
                    write_sheet(self.output / f"sheet_{self.step:07d}.jpg", batch, prediction, depth)
                if self.validator is not None and validations is not None:
                    self.validated = self.validator.measure(self.average.network)
                    validations.append(
                        {"step": self.step} | {name: f"{value:.4f}" for name, value in self.validated.items()}
                    )
                    self._show(progress)
            if out_of_time:
                break
        progress.close()
        if log is not None:
            log.plot(self.output / "log.png", validations)
        accelerator.wait_for_everyone()  # the next stage begins with what the main process wrote
        return self.output / "weights.safetensors"

    def _report(self, seen: Reading, progress: tqdm, log: LogFile | None) -> None:
        """Show and log what was seen since the last report. Raises RainRemovalError where it is no number any
        more.
        """
        _require_finite(seen.terms, self.step)
        self.reported = seen.terms
        self._show(progress)
        if log is not None:
            rate = learning_rate_at(self.step, self.settings)
            samples_a_second = seen.steps_a_second * self.samples_a_step
            log.write(self.step, rate, samples_a_second, seen.gradient_norm, seen.terms)

    def _show(self, progress: tqdm) -> None:
        """Put the terms of the loss, and what was validated last, on the progress bar."""
        shown = {name: f"{value:.4f}" for name, value in self.reported.items()}
        progress.set_postfix(shown | {name: f"{value:.2f} dB" for name, value in self.validated.items()})

    def _learn(self, batch: Sample) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor | None]:
        """One step: the terms of its loss, the norm of its gradient, and what the network gave."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.settings) * group["rate"]
        with self.accelerator.autocast():
            terms, prediction, depth = self.objective(batch)
        self.accelerator.backward(sum(terms.values()))
        norm = self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.average.update(self.network, self.step)
        return terms, norm, prediction, depth

    def _save(self) -> None:
        """Write the weights and a checkpoint; a finished run's weights are calibrated first. Raises
        RainRemovalError where they are no numbers any more.
        """
        for of in (self.network, self.average.network):
            _require_finite(
                {name: float(tensor.sum()) for name, tensor in of.state_dict().items()}, self.step
            )
        settings, samples = self.settings, self.samples
        processes = self.accelerator.num_processes
        training = {
            **plain_settings(settings),
            "step": self.step,
            **self.origin,
            "processes": processes,
            "examples": samples.example_count,
            "torch": torch.__version__,
        }
        network = self.average.network
        if self.step == settings.steps and isinstance(settings.preset, DerainPreset):
            drawn = (samples[i]["rainy"] for i in range(min(CALIBRATION, len(samples))))
            images = (image[None].to(self.accelerator.device) / 255 for image in drawn)
            network.__dict__["input_ranges"] = calibrate(network, images)
        save_network(network, self.output / "weights.safetensors", training)
        # the checkpoint last: what it says is finished must be there
        scaler = self.accelerator.scaler
        state = {
            "settings": plain_settings(settings),
            "step": self.step,
            "origin": self.origin,
            "processes": processes,
            "drawn_from": samples.digest,
            "network": self.network.state_dict(),
            "average": network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        content = io.BytesIO()  # on a full disk PyTorch's own writer says nothing of it
        torch.save(state, content)
        write_bytes(self.checkpoint_path, content.getvalue())


def _move(network: nn.Module, device: torch.device) -> None:
    """To a device, its weights in the order that convolutions are fastest in."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stubs


def _require_finite(terms: Mapping[str, float], step: int) -> None:
    """Raise RainRemovalError where terms of the loss, or weights, are no numbers any more; nothing of them is
    saved then.
    """
    wrong = [name for name, value in terms.items() if not math.isfinite(value)]
    if wrong:
        raise RainRemovalError(
            f"loss or weights are not finite at step {step} ({', '.join(wrong[:3])}); begin anew with a "
            "lower learning rate, from the weights that the run wrote last"
        )


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
    """What lies in a checkpoint, its tensors read as they are needed. Raises WeightsError for a damaged
    one.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, UnpicklingError, ValueError) as error:
        raise WeightsError(f"{path} is damaged; remove it, and the run begins anew ({error})") from error


def finished_steps(output: Path) -> int:
    """How many steps the run in a folder has made; 0 where there is none."""
    checkpoint = output / "checkpoint.pt"
    if not checkpoint.is_file():
        return 0
    return load_checkpoint(checkpoint)["step"]
