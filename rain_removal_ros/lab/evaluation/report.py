"""An evaluation's figures as Markdown for people. Knows the summary's layout, not how it came about."""

from __future__ import annotations

from collections.abc import Iterable

from rain_removal_ros.lab.evaluation.evaluate import OVERALL
from rain_removal_ros.lab.evaluation.metrics import SSIM_DESCRIPTION


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    header = list(header)
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _figure(value: float | None, digits: int = 2, sign: bool = False) -> str:
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def render_markdown(report: dict) -> str:
    """The report of `command.run` as Markdown."""
    conditions, results = report["conditions"], report["results"]
    parts = [
        "# Evaluation\n",
        _conditions(conditions, results["counts"]),
        _comparison(results),
        _restoration(results),
    ]
    parts.append(_depth(results))
    if results["judges"]:
        parts.append(_segmentation(results, conditions))
    if any("robustness" in network for network in results["networks"].values()):
        parts.append(_robustness(results))
    return "\n".join(parts)


def _conditions(conditions: dict, counts: dict) -> str:
    dataset, machine = conditions["dataset"], conditions["machine"]
    lines = [
        f"- dataset: {dataset['kind']} `{dataset['name']}`"
        + (f", split {dataset['split']}" if dataset["split"] else "")
        + f": {counts['images']} of {dataset['examples']} examples, {counts['views']} rainy views, "
        + f"{counts['judged_images']} with labels to judge by",
        f"- protocol `{conditions['protocol']}`: {conditions['protocol_description']}",
        f"- SSIM: {SSIM_DESCRIPTION}",
        f"- rain: {conditions['rain']}",
        f"- machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
        + (f", {machine['gpu']}" if "gpu" in machine else ""),
        "- versions: " + ", ".join(f"{name} {version}" for name, version in conditions["versions"].items()),
    ]
    for name, network in conditions["networks"].items():
        lines.append(
            f"- `{name}`: preset {network['preset']}, {network['weights']} (SHA-256 "
            f"{network['weights_sha256'][:12]}), "
            f"{network['backend']} {network['precision']} on {network['device']}"
        )
    for name, judge in conditions["judges"].items():
        lines.append(
            f"- judge `{name}`: {judge['file']} (SHA-256 {judge['sha256'][:12]}), scale {judge['scale']:g}, "
            f"normalisation {judge['normalise']}, classes {conditions['class_set']}"
        )
    lines.append(f"\n    {conditions['command']}\n")
    return "\n".join(lines)


def _comparison(results: dict) -> str:
    judges = list(results["judges"])
    header = ["network", "PSNR (dB)", "gain", "SSIM", "gain", "dry PSNR"]
    header += [f"mIoU, {judge}" for judge in judges] + [f"won back, {judge}" for judge in judges]
    header += ["depth δ<1.25", "flicker", "ms"]
    rainy = results["rainy"][OVERALL]
    flickers = [n["flicker"]["rainy"] for n in results["networks"].values() if "flicker" in n]
    baseline = ["(rainy)", _figure(rainy["psnr"]), "", _figure(rainy["ssim"], 4), "", ""]
    baseline += [_percent(results["judges"][judge]["rainy"][OVERALL]["miou"]) for judge in judges]
    baseline += [""] * (len(judges) + 1) + [_figure(flickers[0]) if flickers else "", ""]
    rows = [baseline]
    if judges:
        clean = (
            ["(clean)"] + [""] * 5 + [_percent(results["judges"][judge]["clean"]["miou"]) for judge in judges]
        )
        rows.append(clean + [""] * (len(judges) + 3))
    for name, network in results["networks"].items():
        overall = network["restoration"][OVERALL]
        row = [
            name,
            _figure(overall["psnr"]),
            _figure(overall["psnr_gain"], sign=True),
            _figure(overall["ssim"], 4),
            _figure(overall["ssim_gain"], 4, sign=True),
            _figure(network["dry"]["psnr"]),
        ]
        row += [_percent(network["judges"][judge][OVERALL]["miou"]) for judge in judges]
        row += [_percent(network["judges"][judge][OVERALL]["won_back"]) for judge in judges]
        row.append(_percent(network["depth"]["all"]["delta_1.25"] if network["depth"] else None))
        row.append(_figure(network["flicker"]["derained"] if "flicker" in network else None))
        row.append(_figure(network["latency"]["median_ms"], 1))
        rows.append(row)
    size = next(iter(results["networks"].values()))["latency"]["size"]
    note = (
        "All levels together. Flicker in grey levels on a static scene. Latency: median of one call at "
        f"{size}, "
        "the evaluation doing nothing else meanwhile.\n"
    )
    return f"## Side by side\n\n{table(header, rows)}\n{note}"


def _restoration(results: dict) -> str:
    header = ["network", "level", "PSNR rainy", "PSNR", "gain", "worst gain", "SSIM rainy", "SSIM"]
    rows = []
    for name, network in results["networks"].items():
        for level, figures in network["restoration"].items():
            rainy = results["rainy"][level]
            row = [name, level, _figure(rainy["psnr"]), _figure(figures["psnr"])]
            row += [_figure(figures["psnr_gain"], sign=True), _figure(figures["psnr_gain_worst"], sign=True)]
            rows.append([*row, _figure(rainy["ssim"], 4), _figure(figures["ssim"], 4)])
    dry = table(
        ["network", "PSNR to the input", "worst image", "SSIM"],
        [
            [name, _figure(n["dry"]["psnr"]), _figure(n["dry"]["psnr_worst"]), _figure(n["dry"]["ssim"], 4)]
            for name, n in results["networks"].items()
        ],
    )
    return f"## Restoration\n\n{table(header, rows)}\n### No harm: dry images\n\n{dry}"


def _depth(results: dict) -> str:
    rows = [
        [
            name,
            kind,
            _figure(f["abs_rel"], 3),
            _figure(f["inverse_abs_rel"], 3),
            _percent(f["delta_1.25"]),
            str(f["views"]),
        ]
        for name, network in results["networks"].items()
        for kind, f in network["depth"].items()
    ]
    if not rows:
        return ""
    header = ["network", "truth", "AbsRel (distance)", "AbsRel (inverse depth)", "δ<1.25", "views"]
    return f"## Depth from the rainy image\n\n{table(header, rows)}"


def _segmentation(results: dict, conditions: dict) -> str:
    parts = [
        f"## Segmentation\n\nmIoU over the classes that the truth has, class set {conditions['class_set']}.\n"
    ]
    for judge, baseline in results["judges"].items():
        levels = list(baseline["rainy"])
        header = ["image", *levels, "dry"]
        clean = baseline["clean"]
        rows = [
            ["clean", *[_percent(clean["miou"])] * len(levels), _percent(clean["miou"])],
            ["rainy", *(_percent(baseline["rainy"][level]["miou"]) for level in levels), ""],
        ]
        for name, network in results["networks"].items():
            of_judge = network["judges"][judge]
            rows.append([name, *(_percent(of_judge[level]["miou"]) for level in [*levels, "dry"])])
            rows.append(
                [f"{name}: won back", *(_percent(of_judge[level]["won_back"]) for level in levels), ""]
            )
        parts.append(f"### Judge {judge}\n\n{table(header, rows)}")
        header = ["class", "clean", "rainy", *results["networks"]]
        rows = []
        for name in clean["iou"]:
            rainy = baseline["rainy"][OVERALL]["iou"][name]
            derained = (n["judges"][judge][OVERALL]["iou"][name] for n in results["networks"].values())
            rows.append([name, _percent(clean["iou"][name]), _percent(rainy), *map(_percent, derained)])
        parts.append(f"IoU by class, all levels together:\n\n{table(header, rows)}")
    return "\n".join(parts)


def _robustness(results: dict) -> str:
    networks = {name: n["robustness"] for name, n in results["networks"].items() if "robustness" in n}
    header = ["added", "what it is", "PSNR rainy"]
    for name in networks:
        header += [name, "gain"]
    rows = []
    for number, first in enumerate(next(iter(networks.values()))):
        row = [first["name"], first["description"], _figure(first["psnr_rainy"])]
        for figures in networks.values():
            row += [_figure(figures[number]["psnr"]), _figure(figures[number]["psnr_gain"], sign=True)]
        rows.append(row)
    count = results["counts"]["robustness_images"]
    return f"## Robustness\n\nMedium rain on {count} images; PSNR in dB.\n\n{table(header, rows)}"
