"""The terms of the training loss, each a function of its own with its equation. Images are float (N, 3, H, W)
in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rain_removal_ros.cityscapes import UNLABELLED
from rain_removal_ros.network import MAX_INVERSE_DEPTH


def image_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """mean |J - I|."""
    return (restored - clean).abs().mean()


def fidelity(restored: Tensor, clean: Tensor) -> Tensor:
    """mean over samples of log10(MSE(J, I) + 1e-5): minus the PSNR in tens of dB, which ends at 50 dB.

    Every sample counts by its relative error, so that dry ones, whose error is small, are not forgotten.
    """
    return torch.log10((restored - clean).square().mean(dim=(1, 2, 3)) + 1e-5).mean()


def gradient_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """mean |dx(J - I)| + mean |dy(J - I)|, forward differences: what is left of a streak has edges."""
    error = restored - clean
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def coarse_gradient_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """mean over k = 2, 4 of gradient_l1 of J and I averaged over k x k pixels: what is left of a streak is
    often a smear of some pixels, which a segmentation network falls for and a finest gradient hardly counts.
    """
    error = restored - clean
    pooled = [F.avg_pool2d(error, factor) for factor in (2, 4)]
    return torch.stack([gradient_l1(p, torch.zeros_like(p)) for p in pooled]).mean()


def streaks_l1(estimate: Tensor, truth: Tensor) -> Tensor:
    """mean (|e| + |dx e| / 2 + |dy e| / 2), e = S - R (1 - I), where the truth R (1 - I) is known (not NaN).

    Every |e| is sqrt(e^2 + 0.01^2) - 0.01 (Charbonnier): most pixels have no streak, and an L1 loss that does
    not yield about zero teaches zero everywhere. S and R (1 - I) are (N, 3, H, W) in [0, 1].
    """
    known = ~torch.isnan(truth)
    error = torch.where(known, estimate - torch.nan_to_num(truth.float()), 0)

    def total(e: Tensor) -> Tensor:
        return (torch.sqrt(e.square() + 1e-4) - 0.01).sum()

    edges = total(error.diff(dim=-1)) + total(error.diff(dim=-2))
    return (total(error) + 0.5 * edges) / known.sum().clamp(min=1)


def structural(restored: Tensor, clean: Tensor, window: int = 8, stride: int = 4) -> Tensor:
    """1 - mean SSIM(J, I) (Wang et al., IEEE TIP 2004), K1 = 0.01, K2 = 0.03, range 1.

    Over uniform windows that overlap by half: a window at every pixel costs many times as much and teaches
    the same.
    """
    restored, clean = restored.float(), clean.float()

    def local_mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride)

    mean_j, mean_i = local_mean(restored), local_mean(clean)
    variance_j = local_mean(restored * restored) - mean_j * mean_j
    variance_i = local_mean(clean * clean) - mean_i * mean_i
    covariance = local_mean(restored * clean) - mean_j * mean_i
    luminance = (2 * mean_j * mean_i + 1e-4) / (mean_j**2 + mean_i**2 + 1e-4)
    contrast = (2 * covariance + 9e-4) / (variance_j + variance_i + 9e-4)
    return 1 - (luminance * contrast).mean()


def depth_l1(estimate: Tensor, truth: Tensor) -> Tensor:
    """mean |sqrt(z / z_max) - sqrt(z* / z_max)| over pixels whose truth is known (not NaN).

    Inverse depth in 1/m, estimate (N, 1, h, w), truth (N, H, W), which is averaged down to the estimate's
    size. The root gives far distances, where fog is, their share of the loss.
    """
    factor = truth.shape[-1] // estimate.shape[-1]
    truth = F.avg_pool2d(truth[:, None].float(), factor)
    known = ~torch.isnan(truth)

    def compressed(z: Tensor) -> Tensor:
        return torch.sqrt(z.float().clamp(min=0) / MAX_INVERSE_DEPTH + 1e-4)

    error = torch.where(known, compressed(estimate) - compressed(torch.nan_to_num(truth)), 0).abs()
    return error.sum() / known.sum().clamp(min=1)


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


def segmentation_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """mean -log p(label) over labelled pixels; logits (N, C, h, w) are brought to the labels' (N, H, W) size
    first.
    """
    logits = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    losses = F.cross_entropy(logits, labels.long(), ignore_index=UNLABELLED, reduction="sum")
    return losses / (labels != UNLABELLED).sum().clamp(min=1)
