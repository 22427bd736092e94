"""What a network is taught by: its forward pass on a batch of samples, and the weighted terms of the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rain_removal_ros.lab.training import losses
from rain_removal_ros.lab.training.samples import Sample
from rain_removal_ros.lab.training.settings import TrainingSettings, restores
from rain_removal_ros.network.fast import FastDerainNetwork
from rain_removal_ros.network.segmentation import SegmentationNetwork


class Objective(nn.Module):
    """The network and its loss in one module, so that distributed training sees one forward pass.

    The frozen segmentation network serves two terms in one pass: its class probabilities the semantic, the
    features of its trunk the perceptual.
    """

    def __init__(
        self, network: nn.Module, settings: TrainingSettings, segmentation: SegmentationNetwork | None
    ):
        super().__init__()
        self.network, self.settings = network, settings
        self._frozen = [segmentation]  # in a list: no part of what is trained, saved or averaged

    def forward(self, batch: Sample) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Loss terms (weighted), and for looking at: the restored images or logits, and pixels per metre."""
        settings, network = self.settings, self.network
        if not restores(settings):
            logits = network(batch["clean"].float() / 255)
            loss = losses.segmentation_cross_entropy(logits, batch["labels"], settings.class_balance)
            return {"cross_entropy": loss}, logits, None
        rainy = batch["rainy"].float() / 255
        if isinstance(network, FastDerainNetwork) and settings.part == "streaks":
            return self._streaks(network, rainy, batch)
        clean = batch["clean"].float() / 255
        weights = settings.weights
        terms: dict[str, Tensor] = {}
        if isinstance(network, FastDerainNetwork):
            if settings.part in ("fog", "depth"):
                streaks = batch["streaks"].float() * (1 - batch["leftover"][:, None, None, None])
            else:
                streaks, rain_logit = network.find_streaks(rainy)
                terms |= self._streak_terms(streaks, rain_logit, batch)
            seen = rainy - streaks
            came = rainy if settings.part == "all" else seen
            if settings.part == "depth":
                depth = network.find_depth(seen)
                return self._depth_terms(depth, batch), seen, depth
            correction, depth, fog = network.clear_fog(seen)
            restored = seen + correction
            of_fog = weights.presence * losses.presence(fog.logit, batch["fog"], losses.FALSE_FOG)
            terms["presence"] = terms.get("presence", 0) + of_fog
            terms["extinction"] = weights.extinction * losses.extinction_l1(fog.root, batch["extinction"])
            terms["airlight"] = weights.airlight * losses.airlight_l1(fog.airlight, batch["airlight"])
        else:
            correction, depth, _ = network(rainy)
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

    def _depth_terms(self, depth: Tensor, batch: Sample) -> dict[str, Tensor]:
        weights, truth = self.settings.weights, (batch["pixels_per_metre"], batch["depth_measured"])
        return {
            "depth": weights.depth * losses.depth_l1(depth, *truth),
            "distance": weights.distance * losses.distance_error(depth, *truth),
        }

    def _streaks(
        self, network: FastDerainNetwork, rainy: Tensor, batch: Sample
    ) -> tuple[dict[str, Tensor], Tensor, None]:
        light, rain_logit = network.find_streaks(rainy)
        restored, without = rainy - light, rainy - torch.nan_to_num(batch["streaks"].float())
        terms = {
            **self._streak_terms(light, rain_logit, batch),
            "structural": self.settings.weights.structural * losses.structural(restored, without),
            **self._meaning(restored, without),
        }
        return terms, restored, None

    def _streak_terms(self, light: Tensor, rain_logit: Tensor, batch: Sample) -> dict[str, Tensor]:
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
        seen, wanted = (image.clamp(0, 1) for image in (restored, clean))
        with torch.no_grad():
            features_clean, logits_clean = segmentation.features_and_logits(wanted)
        features, logits = segmentation.features_and_logits(seen)
        return {
            "semantic": weights.semantic * losses.semantic(logits, logits_clean),
            "perceptual": weights.perceptual * losses.perceptual(features, features_clean),
        }


def _knowable(batch: Sample) -> Tensor:
    """Where what is behind the weather can be known, bool (N, H, W): everywhere but in a sky behind fog."""
    return (batch["pixels_per_metre"] != 0) | (batch["fog"] == 0)[:, None, None]
