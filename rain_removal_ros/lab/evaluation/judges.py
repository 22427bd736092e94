"""Segmentation networks as judges: ours from a weights file, or anybody's given as ONNX or TorchScript; and
judges that keep their answers for images that come again.

A judge sees images and gives Cityscapes train ids; it knows nothing of what was restored, or how.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import nn

from rain_removal_ros.errors import OutputError, ParameterError, WeightsError
from rain_removal_ros.files.images import write_image
from rain_removal_ros.lab.evaluation.metrics import CLASSES
from rain_removal_ros.network import load_network, preset_of, sha256_of
from rain_removal_ros.network.presets import STRIDE, SegmentationPreset

TRACING = threading.RLock()
"""PyTorch's tracer keeps global state: one network of a process is traced at a time."""

_PRECISION = threading.Lock()
"""So is whether PyTorch takes TF32: one judge of a process computes on a GPU at a time."""

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

CLASS_SETS: dict[str, dict[int, int]] = {
    "cityscapes19": {},
    "camvid11": {14: 13, 15: 13, 16: 13, 17: 12, 18: 12, 6: 7, 3: 2, 9: 8},
}
"""Train ids folded into others, in the judge's answer and in the truth alike. CamVid's eleven classes know
one vehicle (13, for truck, bus and train too), two-wheelers with their riders (12, for motorcycle and
bicycle), signs with lights (7), walls among buildings (2) and all that grows as vegetation (8, for terrain).
"""


def folding_table(class_set: str) -> np.ndarray:
    """uint8 (256,): the lookup table of a class set."""
    table = np.arange(256, dtype=np.uint8)
    for source, target in CLASS_SETS[class_set].items():
        table[source] = target
    return table


@dataclass(frozen=True)
class JudgeSpecification:
    """A judge as given on the command line: PATH[,scale=S][,normalise=imagenet][,name=N]."""

    path: Path
    name: str
    scale: float = 1.0  # the judge sees the image enlarged this much
    normalise: str = "none"  # none: RGB in [0, 1]; imagenet: less the mean, over the deviation

    @classmethod
    def parse(cls, text: str) -> JudgeSpecification:
        """Raises ParameterError for an unknown or malformed option."""
        path, *options = text.split(",")
        given = {}
        for option in options:
            key, separator, value = option.partition("=")
            if not separator or key not in ("scale", "normalise", "name"):
                raise ParameterError(
                    f"judge {text!r}: {option!r} is not one of scale=S, normalise=imagenet, name=N"
                )
            given[key] = value
        try:
            scale = float(given.get("scale", 1))
        except ValueError:
            scale = 0.0
        if not 0.1 <= scale <= 8:
            raise ParameterError(f"judge {text!r}: scale must be a number from 0.1 to 8")
        normalise = given.get("normalise", "none")
        if normalise not in ("none", "imagenet"):
            raise ParameterError(f"judge {text!r}: normalise is none or imagenet, not {normalise!r}")
        return cls(Path(path), given.get("name", Path(path).stem), scale, normalise)


class Judge:
    """`judge(image)` gives the train ids of a uint8 (H, W, 3) RGB image as uint8 (H, W).

    May be called from several threads.
    """

    def __init__(self, specification: JudgeSpecification):
        """Load the network.

        Raises WeightsError where the file is missing or is no segmentation network of 19 classes.
        """
        self.specification = specification
        if not specification.path.is_file():
            raise WeightsError(
                f"judge {specification.path} does not exist; give a .safetensors, .onnx or .pt file"
            )
        self.sha256 = _fingerprint(specification.path)
        self._lock = threading.Lock()
        self._fixed_size: tuple[int, int] | None = None
        self._gpu = ""
        self._logits = self._open()
        self.identity = f"{self.sha256} centred {specification.scale} {specification.normalise}{self._gpu}"

    @property
    def description(self) -> dict[str, str | float]:
        """What a report says of the judge."""
        return {
            "file": self.specification.path.name,
            "sha256": self.sha256,
            "scale": self.specification.scale,
            "normalise": self.specification.normalise,
        }

    def _open(self) -> Callable[[np.ndarray], np.ndarray]:
        """The function from float32 (1, 3, H, W) to float32 logits (1, 19, h, w)."""
        import torch

        path = self.specification.path
        if path.suffix == ".onnx":
            from rain_removal_ros.runtime.without_telemetry import openvino

            try:
                model = openvino.Core().read_model(path)
            except RuntimeError as error:
                raise WeightsError(
                    f"judge {path} is not an ONNX network that OpenVINO reads ({error})"
                ) from error
            shape = model.input(0).partial_shape
            if shape.rank.get_length() == 4 and shape[2].is_static and shape[3].is_static:
                self._fixed_size = shape[2].get_length(), shape[3].get_length()
            return _compiled_for_every_size(lambda example: model.clone())
        if path.suffix == ".safetensors":
            network, _ = load_network(path)
            preset = preset_of(network)
            if not isinstance(preset, SegmentationPreset):
                raise WeightsError(
                    f"judge {path} holds the network {preset.name!r}, not a segmentation network"
                )
        else:
            try:
                network = torch.jit.load(str(path), map_location="cpu").eval()
            except RuntimeError as error:
                raise WeightsError(f"judge {path} is not a TorchScript file ({error})") from error
        if torch.cuda.is_available():
            network, self._gpu = network.cuda(), f" {torch.cuda.get_device_name()}"

            def on_gpu(batch: np.ndarray) -> np.ndarray:
                with torch.inference_mode(), _without_tf32():
                    return network(torch.from_numpy(batch).cuda()).float().cpu().numpy()

            return on_gpu
        return openvino_function(network)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        scale = self.specification.scale
        seen_height, seen_width = self._fixed_size or (round(height * scale), round(width * scale))
        if (seen_height, seen_width) != (height, width):
            image = cv2.resize(image, (seen_width, seen_height), interpolation=cv2.INTER_LINEAR)
        inside = np.s_[:seen_height, :seen_width]
        if self._fixed_size is None:
            image, inside = padded(image)
        values = image.astype(np.float32) / 255
        if self.specification.normalise == "imagenet":
            values = (values - IMAGENET_MEAN) / IMAGENET_DEVIATION
        batch = np.ascontiguousarray(values.transpose(2, 0, 1))[None]
        with self._lock:
            logits = self._logits(batch)
        if logits.ndim != 4 or logits.shape[:2] != (1, CLASSES):
            raise WeightsError(
                f"judge {self.specification.path} gives an array of shape {logits.shape}; "
                "logits (1, 19, h, w) of Cityscapes train ids are needed"
            )
        maps = np.ascontiguousarray(logits[0].transpose(1, 2, 0))
        maps = cv2.resize(maps, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
        maps = maps[inside]
        if (seen_height, seen_width) != (height, width):
            maps = cv2.resize(maps, (width, height), interpolation=cv2.INTER_LINEAR)
        return maps.argmax(axis=2).astype(np.uint8)


class KeptJudge:
    """A judge whose answers are kept in files, by the image's bytes and the judge's, for images that come
    again in every evaluation: clean and rainy ones.
    """

    LIMIT = 20_000
    """Files; the oldest give way."""

    def __init__(self, judge: Judge, folder: Path):
        self._judge, self._folder = judge, folder
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("*.png"), key=_written)
        for path in files[: -self.LIMIT]:
            path.unlink(missing_ok=True)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        key = hashlib.sha256(f"{self._judge.identity} {image.shape}".encode())
        key.update(np.ascontiguousarray(image).data)
        path = self._folder / f"{key.hexdigest()[:40]}.png"
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
        if labels is None or labels.shape != image.shape[:2]:
            labels = self._judge(image)
            with suppress(OutputError):  # it is asked again the next time
                write_image(path, labels)
        return labels


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Within its block float32 is computed as such on a GPU, which TF32 does not; one block at a time."""
    from torch.backends import cuda, cudnn

    with _PRECISION:
        before = cudnn.allow_tf32, cuda.matmul.allow_tf32
        cudnn.allow_tf32 = cuda.matmul.allow_tf32 = False
        try:
            yield
        finally:
            cudnn.allow_tf32, cuda.matmul.allow_tf32 = before


def _written(path: Path) -> float:
    """When a file was written; long ago where another run has taken it away or renamed it meanwhile."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def padded(image: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice]]:
    """(H, W, 3) -> both sides multiples of STRIDE, mirrored at its edges as the node's frames are, for what
    takes any such size; and where the image is in that.
    """
    height, width = image.shape[:2]
    bottom, right = -height % STRIDE, -width % STRIDE
    top, left = bottom // 2, right // 2
    sides = (top, bottom - top, left, right - left)
    larger = cv2.copyMakeBorder(image, *sides, cv2.BORDER_REFLECT_101)
    return larger, np.s_[top : top + height, left : left + width]


def openvino_function(network: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    """A torch network of one input and one output as a function of float32 arrays, compiled in float32 for
    every size that it meets: the very answers of PyTorch, four times as fast.
    """
    import torch

    from rain_removal_ros.runtime.without_telemetry import openvino

    def convert(batch: np.ndarray) -> Any:
        example = torch.from_numpy(batch)
        if not isinstance(network, torch.jit.ScriptModule):
            with TRACING, torch.inference_mode():
                traced = torch.jit.trace(network, example, check_trace=False)
            return openvino.convert_model(traced, example_input=example)
        return openvino.convert_model(network, example_input=example)

    return _compiled_for_every_size(convert)


def _fingerprint(path: Path) -> str:
    """SHA-256 of a network's file, together with the .data file that an ONNX network keeps its weights in."""
    weights = path.with_name(path.name + ".data")
    if not weights.is_file():
        return sha256_of(path)
    return hashlib.sha256(f"{sha256_of(path)} {sha256_of(weights)}".encode()).hexdigest()


def _compiled_for_every_size(convert: Callable[[np.ndarray], Any]) -> Callable[[np.ndarray], np.ndarray]:
    """`convert` makes an OpenVINO model of an example of what it will take."""
    from rain_removal_ros.runtime.without_telemetry import openvino

    core = openvino.Core()
    compiled = {}

    def run(batch: np.ndarray) -> np.ndarray:
        if batch.shape not in compiled:
            model = convert(batch)
            model.reshape(list(batch.shape))
            compiled[batch.shape] = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return next(iter(compiled[batch.shape]([batch]).values()))

    return run
