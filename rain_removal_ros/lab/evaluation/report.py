"""An evaluation's figures as Markdown for people. Knows the summary's layout, not how it came about."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from rain_removal_ros.lab.evaluation.columns import (
    DEPTH,
    DRY_COLUMNS,
    LUMA,
    RESTORATION,
    UNCERTAIN,
    Column,
    cell,
    decibels,
    gain,
    grey_levels,
    interval,
    judgement,
    percent,
    ratio,
    signed_grey_levels,
    signed_percent,
    table,
)
from rain_removal_ros.lab.evaluation.evaluate import FOG_LEFT, STREAKS_ALONE
from rain_removal_ros.lab.evaluation.metrics import BANDS, HARM, SKY, SSIM_DESCRIPTION
from rain_removal_ros.lab.evaluation.summary import CLEAN, DRY, MEAN, OVERALL, RAINY, Figures
from rain_removal_ros.lab.evaluation.testbed import MASK


def render_markdown(report: Figures) -> str:
    """What an evaluation gave, as Markdown."""
    conditions, results = report["conditions"], report["results"]
    parts = ["# Evaluation\n", _conditions(conditions, results)]
    if "sources" in results:
        parts += [
            _comparison(results),
            _intervals(results),
            _groups(results),
            _levels_table(results),
            _distances(results),
        ]
        parts += [_sky_bounds(results), _depth(results)]
        parts += [_robustness(results), _classes(results)]
    parts += [_weather(results), _hard_dry(results)]
    return "\n".join(part for part in parts if part)


def _conditions(conditions: Figures, results: Figures) -> str:
    machine = conditions["machine"]
    lines = []
    if dataset := conditions.get("dataset"):
        counts = results["counts"]
        lines += [
            f"- dataset: {dataset['kind']} `{dataset['name']}`"
            + (f", split {dataset['split']}" if dataset["split"] else "")
            + f": {counts['images']} of {dataset['images']} images, {counts['views']} rainy views, "
            + f"{counts['labelled_images']} labelled by hand or rendered; "
            + ", ".join(f"{group} {count}" for group, count in results["groups"].items()),
            f"- protocol `{conditions['protocol']}`: {conditions['protocol_description']}",
            f"- SSIM: {SSIM_DESCRIPTION}",
            f"- rain: {conditions['rain']}",
        ]
    lines += [
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
    for name, folder in conditions["methods"].items():
        lines.append(f"- `{name}`: the images in {folder}; no depth, no latency of it is known")
    for name, judge in conditions["judges"].items():
        lines.append(
            f"- judge `{name}`: {judge['file']} (SHA-256 {judge['sha256'][:12]}), scale {judge['scale']:g}, "
            f"normalisation {judge['normalise']}, classes {conditions['class_set']}"
        )
    lines.append(f"\n    {conditions['command']}\n")
    return "\n".join(lines)


def _compared(results: Figures) -> list[str]:
    """Networks, then the methods whose images were given."""
    return [*results["networks"], *results["methods"]]


def _judges(results: Figures) -> list[str]:
    dry = results["sources"].get(RAINY, {}).get(OVERALL, {}).get(MEAN, {})
    return [name.removeprefix("agreement/") for name in dry if name.startswith("agreement/")]


def _comparison(results: Figures) -> str:
    """Everything in a row a source, mean over groups, the levels of OVERALL together."""
    sources = results["sources"]
    judges = _judges(results)
    columns = [*RESTORATION, *LUMA, *(column for judge in judges for column in judgement(judge))]
    titles = [column.title for column in (*RESTORATION, *LUMA)]
    titles += [f"{judge}: {column.title}" for judge in judges for column in judgement(judge)]
    rows = []
    for source, levels in sources.items():
        if OVERALL in levels:
            rows.append([source, *(cell(levels[OVERALL][MEAN], column) for column in columns)])
    text = f"## Mean over groups\n\n{table(['image', *titles], rows)}\n"
    text += (
        f"Rain: {', '.join(results['overall'])}. Harmed: more than {HARM} grey levels farther from the truth "
        "than it came. Sky off: how far its mean brightness, and its blue minus red, lie from the truth, in "
        "grey levels.\n"
    )
    text += "".join(_labelled_groups(results, judge) for judge in judges)
    rows = []
    for name in _compared(results):
        network, dry = results["networks"].get(name, {}), sources[name].get(DRY, {MEAN: {}})
        flicker, latency = network.get("flicker"), network.get("latency")
        rows.append(
            [
                name,
                *(cell(dry[MEAN], column) for column in DRY_COLUMNS),
                f"{flicker['rainy']:.2f} → {flicker['derained']:.2f}" if flicker else "",
                f"{latency['median_ms']:.1f}" if latency else "",
            ]
        )
    header = ["dry images", *(column.title for column in DRY_COLUMNS), "flicker in rain", "ms"]
    size = next(iter(results["networks"].values())).get("latency", {}).get("size", "")
    note = f"\nFlicker: grey levels, of a static scene. Latency: median of one call at {size}.\n"
    return f"{text}\n{table(header, rows)}{note}"


def _labelled_groups(results: Figures, judge: str) -> str:
    """What groups a judge's mIoU is the mean of."""
    groups = results["sources"][RAINY][OVERALL]
    counts = {
        group: round(figures[f"classes/{judge}"])
        for group, figures in groups.items()
        if group != MEAN and f"classes/{judge}" in figures
    }
    named = ", ".join(f"{group} ({count} classes)" for group, count in counts.items())
    return f"mIoU of {judge}: {named}; the other groups have no labels by hand.\n" if counts else ""


def _intervals(results: Figures) -> str:
    """A row a source, then a row a pair: what other images of the same groups would change."""
    found = results["intervals"]
    judges = [name for name in _judges(results) if name != MASK]
    won = [f"won_back/agreement/{judge}" for judge in judges]
    columns = [*UNCERTAIN, *(Column(f"{name}, %", name, signed_percent) for name in won)]
    columns = [column for column in columns if any(column.figure in of for of in found["of"].values())]
    title = "## How certain\n\n"
    if not columns:
        return f"{title}A group has a single image: there is nothing to draw others from.\n"
    titles = [column.title.replace("won_back/agreement/", "agreement won back: ") for column in columns]
    rows = [[name, *(interval(of, column) for column in columns)] for name, of in found["of"].items()]
    first = next(iter(found["of"]))
    signed = [replace(column, write=_signed_ratio) if column.write is ratio else column for column in columns]
    for name, of in found["differences"].items():
        rows.append([f"{first} - {name}", *(interval(of, column) for column in signed)])
    rain = ", ".join(results["overall"])
    note = (
        f"\nMean over groups [{100 * found['share']:g} % bootstrap interval]; {rain}. {found['resamples']} "
        "draws of every group's images, the same ones in all rows, tell what other images of the same places "
        "would change, not other places.\n"
    )
    return f"{title}{table(['image', *titles], rows)}{note}"


_signed_ratio = "{:+.3f}".format


def _groups(results: Figures) -> str:
    """A row a group: the levels of OVERALL, the streak stage alone, dry images."""
    sources, parts = results["sources"], []
    for name in _compared(results):
        overall, dry = sources[name][OVERALL], sources[name].get(DRY, {})
        alone = sources.get(STREAKS_ALONE.format(name), {}).get(OVERALL, {})
        judges = _judges(results)
        shown = [*RESTORATION, *(column for judge in judges for column in judgement(judge)[1::2])]
        titles = [column.title for column in RESTORATION]
        for judge in judges:
            titles += [f"{judge}: agreement won back", f"{judge}: mIoU won back"]
        streaks = [
            column
            for judge in judges
            for column in judgement(judge)[1::2]
            if column.figure in alone.get(MEAN, {})
        ]
        titles += [f"by streaks alone, {column.figure.removeprefix('won_back/')}" for column in streaks]
        titles += ["dry", "worst"]
        rows = [
            [
                f"**{group}**" if group == MEAN else group,
                *(cell(figures, column) for column in shown),
                *(cell(alone.get(group, {}), column) for column in streaks),
                *(cell(dry.get(group, {}), column) for column in DRY_COLUMNS[:2]),
            ]
            for group, figures in overall.items()
        ]
        parts.append(f"## {name} by group\n\n{table(['group', *titles], rows)}")
    return "\n".join(parts)


def _levels_table(results: Figures) -> str:
    sources, parts = results["sources"], []
    judges = _judges(results)
    for name in _compared(results):
        alone = sources.get(STREAKS_ALONE.format(name), {})
        perfect = sources.get(FOG_LEFT, {})
        columns = [*RESTORATION, *DRY_COLUMNS[3:]]
        titles = [column.title for column in columns]
        won = [column for judge in judges for column in judgement(judge)[1::2]]
        if MASK in judges:
            won.append(Column("", f"miou/{MASK}", percent))
        titles += [column.figure.replace("won_back/", "won back: ") for column in won]
        rows = []
        for level, groups in sources[name].items():
            if level != DRY:
                rows.append([level, *(cell(groups[MEAN], column) for column in [*columns, *won])])
        for title, source in (("streaks alone", alone), ("perfect streaks", perfect)):
            for level, groups in source.items():
                rows.append(
                    [f"{level}, {title}", *(cell(groups[MEAN], column) for column in [*columns, *won])]
                )
        dry = sources[name].get(DRY, {MEAN: {}})[MEAN]
        clean = sources[CLEAN][DRY][MEAN]
        notes = [
            f"{judge} {percent(dry[f'miou/{judge}'])} of the dry images restored, "
            f"{percent(clean[f'miou/{judge}'])} of the clean ones"
            for judge in judges
            if f"miou/{judge}" in dry and f"miou/{judge}" in clean
        ]
        note = f"\nmIoU by {'; '.join(notes)}.\n" if notes else ""
        parts.append(f"## {name} by level, mean over groups\n\n{table(['level', *titles], rows)}{note}")
    return "\n".join(parts)


def _distances(results: Figures) -> str:
    """A row a source: the error that is left of what lies near, farther and farthest."""
    sources = {
        source: levels[OVERALL][MEAN] for source, levels in results["sources"].items() if OVERALL in levels
    }
    columns = [Column(name, f"error/{name}", grey_levels) for name in (*BANDS, SKY)]
    columns = [column for column in columns if column.figure in sources.get(RAINY, {})]
    if not columns:
        return ""
    rows = [[source, *(cell(figures, column) for column in columns)] for source, figures in sources.items()]
    header = ["image", *(column.title for column in columns)]
    note = "\nRoot of the mean squared error in grey levels, mean over images, then over groups.\n"
    return f"## Error by distance\n\n{table(header, rows)}{note}"


def _sky_bounds(results: Figures) -> str:
    """A row a group: what gain the sky leaves room for."""
    rainy = results["sources"].get(RAINY, {}).get(OVERALL, {})
    kept, calm = "psnr_gain_sky_kept", "psnr_gain_sky_calm"
    if kept not in rainy.get(MEAN, {}):
        return ""
    networks = {name: results["sources"][name][OVERALL] for name in _compared(results)}
    header = ["group", "perfect below the sky, which is as it came"]
    for name in networks:
        header += [f"{name}: gain", "with the sky at its true mean grey level"]
    rows = []
    for group, before in rainy.items():
        row = [f"**{group}**" if group == MEAN else group, gain(before[kept]) if kept in before else ""]
        for groups in networks.values():
            figures = groups.get(group, {})
            row += [gain(figures[name]) if name in figures else "" for name in ("psnr_gain", calm)]
        rows.append(row)
    note = (
        "\nPSNR gain over the rainy image. Fog hides a sky: to leave it in the fog's light, or to guess how "
        "bright it is, without hue or clouds, is all that can be done without painting. Images without a sky "
        "are left out of the first and the last column.\n"
    )
    return f"## What the sky decides\n\n{table(header, rows)}{note}"


RENDERED_FOG = """
Fog is rendered by the very depth that is then the truth, so it shows the distance; dry images show none.
"""


def _depth(results: Figures) -> str:
    rows = []
    for name in results["networks"]:
        for level, groups in results["sources"][name].items():
            for group, figures in groups.items():
                if "abs_rel" in figures and group != MEAN:
                    rows.append([name, level, group, *(cell(figures, column) for column in DEPTH)])
    parts = []
    if rows:
        header = ["network", "level", "group", *(column.title for column in DEPTH)]
        parts.append(f"## Depth against measured depth\n\n{table(header, rows)}{RENDERED_FOG}")
    rows = [
        [name, percent(network["depth_consistency"]["crop"]), percent(network["depth_consistency"]["zoom"])]
        for name, network in results["networks"].items()
        if "depth_consistency" in network
    ]
    if rows:
        header = ["network", "its middle 60 %", "the same, enlarged"]
        title = "### How far the depth of a part of the image lies from the whole image's"
        parts.append(f"{title}\n\n{table(header, rows)}\nMedian over pixels nearer than 100 m.\n")
    return "\n".join(parts)


def _classes(results: Figures) -> str:
    parts = []
    for judge, sources in results["class_iou"].items():
        names = list(sources.get(CLEAN, {}))
        rows = [
            [name, *(percent(iou[name]) if name in iou else "" for iou in sources.values())] for name in names
        ]
        parts.append(f"### {judge}\n\n{table(['class', *sources], rows)}")
    return "## IoU by class, all groups together\n\n" + "\n".join(parts) if parts else ""


def _robustness(results: Figures) -> str:
    networks = {name: n["robustness"] for name, n in results["networks"].items() if "robustness" in n}
    if not networks:
        return ""
    header = ["added", "what it is", "PSNR rainy"]
    for name in networks:
        header += [name, "gain"]
    rows = []
    for number, first in enumerate(next(iter(networks.values()))):
        row = [first["name"], first["description"], decibels(first["psnr_rainy"])]
        for figures in networks.values():
            row += [decibels(figures[number]["psnr"]), gain(figures[number]["psnr_gain"])]
        rows.append(row)
    count = results["counts"]["robustness_images"]
    return f"## Robustness\n\nMedium rain on {count} images; PSNR in dB.\n\n{table(header, rows)}"


def _weather(results: Figures) -> str:
    if "real_weather" not in results:
        return ""
    parts = [
        "## Real weather\n\nmIoU before → after, and the share of labelled pixels that get their label; how "
        "the sky moved, the mean image's and the farthest's.\n"
    ]
    for name, weathers in results["real_weather"].items():
        all_figures = dict.fromkeys(figure for figures in weathers.values() for figure in figures)
        judges = [f.removeprefix("miou/") for f in all_figures if f.startswith("miou/")]
        said = [f"{judge}{what}" for judge in judges for what in ("", ", right")]
        header = ["weather", "images", *said, "sky brighter", "bluer", "more structure", "rain?", "at most"]
        header.append("seen as foggy")
        rows = []
        for weather, figures in weathers.items():
            row = [weather, str(figures["images"])]
            for judge, figure in product(judges, ("miou", "right")):  # of weather without labels neither
                before, after = (figures.get(f"{figure}{when}/{judge}") for when in ("_before", ""))
                known = before is not None and after is not None
                row.append(f"{percent(before)} → {percent(after)}" if known else "")
            for quantity in ("brightness", "blueness", "structure"):
                moved = [f"sky_{quantity}", f"sky_{quantity}_worst"]
                mean, worst = (signed_grey_levels(figures[f]) if f in figures else "" for f in moved)
                row.append(f"{mean} ({worst})" if mean else "")
            row += [ratio(figures[f]) if f in figures else "" for f in ("rain", "rain_worst")]
            rows.append([*row, percent(figures["foggy"]) if "foggy" in figures else ""])
        parts.append(f"### {name}\n\n{table(header, rows)}")
    return "\n".join(parts)


def _hard_dry(results: Figures) -> str:
    if "hard_dry" not in results:
        return ""
    parts = ["## Hard dry set: look-alikes, to which nothing should be done\n"]
    for name, kinds in results["hard_dry"].items():
        header = ["kind", "PSNR to the input", "worst", f"moved > {HARM} levels", "worst", "rain? at most"]
        rows = [
            [
                kind,
                decibels(figures["psnr"]),
                decibels(figures["psnr_worst"]),
                percent(figures["changed"]),
                percent(figures["changed_worst"]),
                ratio(figures["rain_worst"]) if "rain_worst" in figures else "",
            ]
            for kind, figures in kinds.items()
        ]
        parts.append(f"### {name}\n\n{table(header, rows)}")
    return "\n".join(parts)
