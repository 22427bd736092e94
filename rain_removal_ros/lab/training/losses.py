"""The terms of the training loss, each a function of its own with its equation. Images are float (N, 3, H, W)
in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from rain_removal_ros.cityscapes import UNLABELLED
from rain_removal_ros.network.presets import FARTHEST_PIXELS_PER_METRE, LEAST_PIXELS_PER_METRE


def image_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """mean |J - I|."""
    return (restored - clean).abs().mean()


def fidelity(restored: Tensor, clean: Tensor, counted: Tensor) -> Tensor:
    """mean over samples of log10(MSE(J, I) + 3e-4) over the pixels that are counted (N, H, W, bool): minus
    their PSNR in tens of dB, which ends at 35 dB.

    Every sample counts by its relative error, so that those with little rain are not forgotten. It pulls
    hardest where it ends; a dry image that is all but untouched would, with an end of 50 dB, be pulled at
    ten times as hard as a rainy one. A sky behind fog is not to be counted: what nobody can know would be
    most of the error, and hide the rest.
    """
    squares = torch.where(counted, (restored - clean).square().mean(dim=1), 0)
    mse = squares.sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)
    return torch.log10(mse + 3e-4).mean()


HARMLESS = 0.02
"""How much farther from the truth than it came a pixel may be left without counting here: five grey
levels, half of what an evaluation calls harm.
"""


def harm(restored: Tensor, observed: Tensor, clean: Tensor) -> Tensor:
    """mean relu(|J - I| - |O - I| - HARMLESS), errors in the mean over R, G and B: what is left worse than
    it came.
    """
    left, came = ((image - clean).abs().mean(dim=1) for image in (restored, observed))
    return F.relu(left - came - HARMLESS).mean()


def gradient_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """mean |dx(J - I)| + mean |dy(J - I)|, forward differences: what is left of a streak has edges."""
    error = restored - clean
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


LEFT_OVER = 3.0
"""How much more light that is left over of a streak counts than light taken too much: what hurts a
segmentation network are fine bright remains, and an even L1 is content with half of a faint streak.
"""


def streaks_l1(estimate: Tensor, truth: Tensor) -> Tensor:
    """mean w (sqrt(e^2 + c^2) - c), e = R (1 - I) - S, w = LEFT_OVER where e > 0 and 1 elsewhere, c = 0.004,
    where the truth R (1 - I) is known (not NaN).

    Most pixels have no streak, and a loss that does not yield about zero teaches zero everywhere. S and R (1
    - I) are (N, 3, H, W) in [0, 1].
    """
    known = ~torch.isnan(truth)
    error = torch.where(known, torch.nan_to_num(truth.float()) - estimate, 0)
    distance = torch.sqrt(error.square() + 1.6e-5) - 0.004
    return (distance * torch.where(error > 0, LEFT_OVER, 1.0)).sum() / known.sum().clamp(min=1)


FALSE_FOG = 2.0
"""How much more it counts to call a dry image foggy than to overlook fog: it would be changed all over."""


def presence(logit: Tensor, truth: Tensor, false_alarm: float = 1.0) -> Tensor:
    """mean binary cross-entropy of whether it rains, or is foggy; logit (N, ...) of N numbers, truth (N,) 1
    or 0, NaN where it is not to be said. What is 0 counts `false_alarm` times.
    """
    known = ~torch.isnan(truth)
    losses = F.binary_cross_entropy_with_logits(
        logit.flatten().float(), torch.nan_to_num(truth), reduction="none"
    )
    losses = torch.where(truth == 0, false_alarm * losses, losses)
    return torch.where(known, losses, 0).sum() / known.sum().clamp(min=1)


def extinction_l1(root: Tensor, truth: Tensor) -> Tensor:
    """mean |r - (beta f)^(1/3)| over samples in fog; r (N, ...) of N numbers, truth beta f (N,) in pixels,
    NaN or 0 where there is none to learn from.
    """
    known = torch.nan_to_num(truth) > 0
    wanted = torch.nan_to_num(truth).clamp(min=1e-9) ** (1 / 3)
    return torch.where(known, root.flatten().float() - wanted, 0).abs().sum() / known.sum().clamp(min=1)


def airlight_l1(airlight: Tensor, truth: Tensor) -> Tensor:
    """mean |A - A0| over samples in fog, both in [0, 1]; truth (N,), NaN where there is none to learn
    from.
    """
    known = ~torch.isnan(truth)
    errors = torch.where(known, airlight.flatten().float() - torch.nan_to_num(truth), 0).abs()
    return errors.sum() / known.sum().clamp(min=1)


def structural(restored: Tensor, clean: Tensor) -> Tensor:
    """1 - mean SSIM(J, I) (Wang et al., IEEE TIP 2004), K1 = 0.01, K2 = 0.03, range 1.

    Over uniform windows of 8 x 8 pixels that overlap by half: a window at every pixel costs many times as
    much and teaches the same.
    """
    restored, clean = restored.float(), clean.float()

    def local_mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel_size=8, stride=4)

    mean_j, mean_i = local_mean(restored), local_mean(clean)
    variance_j = local_mean(restored * restored) - mean_j * mean_j
    variance_i = local_mean(clean * clean) - mean_i * mean_i
    covariance = local_mean(restored * clean) - mean_j * mean_i
    luminance = (2 * mean_j * mean_i + 1e-4) / (mean_j**2 + mean_i**2 + 1e-4)
    contrast = (2 * covariance + 9e-4) / (variance_j + variance_i + 9e-4)
    return 1 - (luminance * contrast).mean()


DERIVED = 0.3
"""What depth derived from labels counts, where measured depth counts 1."""


def depth_l1(estimate: Tensor, truth: Tensor, measured: Tensor) -> Tensor:
    """mean w |log((p + p0) / (p* + p0))| over pixels whose truth is known (not NaN), p0 =
    LEAST_PIXELS_PER_METRE.

    p in pixels per metre, estimate (N, 1, h, w), truth (N, H, W), of which the nearest pixel is taken;
    measured bool (N,). Where it is not, w is DERIVED, and p is first scaled by what the median of things at
    hand asks for: labels show what is how many times as far as something else, but that the camera stands 1.5
    m above the road was assumed.
    """

    def logarithm(p: Tensor) -> Tensor:
        return torch.log(p.clamp(min=0) + LEAST_PIXELS_PER_METRE)

    return _over_known(lambda p, wanted: (logarithm(p) - logarithm(wanted)).abs(), estimate, truth, measured)


def distance_error(estimate: Tensor, truth: Tensor, measured: Tensor) -> Tensor:
    """mean w |p - p*| / (p + p1), p1 = FARTHEST_PIXELS_PER_METRE: the relative error |d - d*| / d* of the
    distance, AbsRel, which ends at some 300 m. Parameters as of `depth_l1`.

    What is near and called far, a tree taken for the sky behind it, counts by as many times as it is called
    farther; what is far and called near, once at most.
    """
    return _over_known(
        lambda p, wanted: (p - wanted).abs() / (p + FARTHEST_PIXELS_PER_METRE), estimate, truth, measured
    )


def _over_known(
    error: Callable[[Tensor, Tensor], Tensor], estimate: Tensor, truth: Tensor, measured: Tensor
) -> Tensor:
    """Weighted mean error of an estimate (N, 1, h, w) where the truth (N, H, W) is known."""
    truth = F.interpolate(truth[:, None].float(), size=estimate.shape[-2:], mode="nearest-exact")
    known = ~torch.isnan(truth)
    truth, estimate = torch.nan_to_num(truth), estimate.float()
    solid = known & (truth > FARTHEST_PIXELS_PER_METRE)
    scale = torch.where(measured, 1.0, _missing_scale(estimate.detach(), truth, solid))[:, None, None, None]
    errors = torch.where(known, error(torch.where(solid, scale * estimate, estimate), truth), 0)
    weight = torch.where(measured, 1.0, DERIVED)[:, None, None, None]
    return (weight * errors).sum() / known.sum().clamp(min=1)


def _missing_scale(estimate: Tensor, truth: Tensor, counted: Tensor) -> Tensor:
    """(N,) the median of truth over estimate, (N, 1, h, w) both, where it is counted; 1 where nothing is."""
    ratio = truth / estimate.clamp(min=LEAST_PIXELS_PER_METRE / 10)
    medians = torch.where(counted, ratio, torch.nan).flatten(1).nanmedian(dim=1).values
    return medians.nan_to_num(1.0)


def semantic(logits_restored: Tensor, logits_clean: Tensor) -> Tensor:
    """mean KL(p || q) = mean sum_c p_c (log p_c - log q_c), p on the clean image, q on the restored one.

    Both are class probabilities of the same frozen segmentation network, logits (N, C, h, w). The publication
    takes the cross-entropy of p and q, which differs by the entropy of p, a constant of the network trained
    here.
    """
    log_p = F.log_softmax(logits_clean.float(), dim=1)
    log_q = F.log_softmax(logits_restored.float(), dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def perceptual(features_restored: list[Tensor], features_clean: list[Tensor]) -> Tensor:
    """mean over layers of mean |f(J) - f(I)| / mean |f(I)|: the share of its features that an image lost."""
    shares = [
        (restored.float() - clean.float()).abs().mean() / clean.float().abs().mean().clamp(min=1e-6)
        for restored, clean in zip(features_restored, features_clean, strict=True)
    ]
    return torch.stack(shares).mean()


def segmentation_cross_entropy(logits: Tensor, labels: Tensor, balance: float) -> Tensor:
    """sum w_c (-log p(label)) / sum w_c over labelled pixels, w_c = n_c^(-balance), n_c how many pixels of
    the batch have the label c: signs and people are few, and as important as roads.

    Logits (N, C, h, w) are brought to the labels' (N, H, W) size first.
    """
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    counts = torch.bincount(labels[labels != UNLABELLED].long(), minlength=logits.shape[1])
    weights = counts.clamp(min=1).float() ** -balance
    losses = F.cross_entropy(logits, labels.long(), weights, ignore_index=UNLABELLED, reduction="sum")
    return losses / (weights * counts).sum().clamp(min=1e-6)
