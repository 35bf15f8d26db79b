"""One static HTML page of all results: the headline and every loss first, then each result with its story."""

import html
from collections.abc import Callable
from typing import Any

from benchmarks.results import CEILINGS, losses, rows, unit_of, unit_words

_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em}
table{border-collapse:collapse;margin:1em 0}
td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #8884;vertical-align:top}
td:first-child,th:first-child,td.text,th.text{text-align:left}
img{max-width:100%;background:white}
pre{overflow-x:auto;padding:.6em 1em;background:#8881}
section{margin-top:3em;border-top:2px solid #8884}
details{color:#777}
"""
# What a result answers, by its benchmark (throughput: by its scope; sweep: by what is varied), in the page's order.
_QUESTIONS = {
    "decode+apply": "From JPEG bytes to two views",
    "apply": "From decoded pictures to two views",
    "loader": "Whole loaders, from files on disk",
    "train": "Inside a training step",
    "stream": "A long stream: rate, stutter, memory",
    "roofline": "How far from the machine's limits",
    "batch": "How the cost grows with the batch",
    "image": "How the cost grows with the photograph",
    "images": "How the cost grows with the set",
    "size": "How the cost grows with the view",
    "threads": "What threads and workers bring",
    "step": "The trainer's step",
    "search": "Searching a saliency box",
    "detectors": "Detectors' boxes",
    "boxes_scale": "Loading a box file of ImageNet's size",
}
_METHOD = """
<p>Every figure was measured by <code>python -m benchmarks.&lt;name&gt;</code>, on the machine and at the commit named
with it. The unit is CPU time of the whole process tree for one source image, workers included; the clock only where a
GPU works or threads are the question. Arms take turns within every repeat, after a warm-up of each, and ratios are
taken repeat by repeat. Peers get the same plans and their views are compared with ours before anything is timed. Ranges
are the lowest and highest of all repeats in all processes: what another run may bring.</p>
"""


def page(documents: dict[str, dict[str, Any]], told: Callable[[dict[str, Any]], str]) -> str:
    """The page of results by name; `told(document)` is what the benchmark prints of one, or nothing."""
    names = sorted(documents, key=lambda name: (_place(documents[name]), name))
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"]
    parts += ["<title>What two views cost</title>", f"<style>{_STYLE}</style>", "<h1>What two views cost</h1>"]
    parts += [_headline(documents, names), "<h2>Where we lose</h2>", _all_losses(documents, names)]
    parts += ["<h2>How it is measured</h2>", _METHOD, "<h2>Results</h2><ul>"]
    parts += [f'<li><a href="#{name}">{_title(name, documents[name])}</a> ({html.escape(name)})' for name in names]
    parts.append("</ul>")
    parts += [_section(name, documents[name], told(documents[name])) for name in names]
    return "\n".join(parts) + "\n"


def _kind(document: dict[str, Any]) -> str:
    if document["benchmark"] == "sweep":
        return str(document["settings"].get("over"))
    return str(document["settings"].get("scope") or document["benchmark"])


def _place(document: dict[str, Any]) -> int:
    kind = _kind(document)
    return list(_QUESTIONS).index(kind) if kind in _QUESTIONS else len(_QUESTIONS)


def _title(name: str, document: dict[str, Any]) -> str:
    """What was measured; how it differs from the usual, and where, if elsewhere (after an @ in the name)."""
    settings = document["settings"]
    title: str = _QUESTIONS.get(_kind(document)) or document["benchmark"]
    usual = {"policy": "saliencyswap", "scene": "whole"}
    other = [settings[key] for key, value in usual.items() if settings.get(key, value) != value]
    other += [where for where in name.split("@")[1:] if where]
    return html.escape(f"{title} ({', '.join(other)})" if other else title)


def _headline(documents: dict[str, dict[str, Any]], names: list[str]) -> str:
    """For every throughput result: how often the cheapest of ours fits into each peer, best peer first."""
    lines = ["<table><tr><th>the job<th class=text>peer / ours' cheapest: median (lowest–highest)</tr>"]
    for name in names:
        document = documents[name]
        if document["benchmark"] != "throughput":
            continue
        ours = next((row[0] for row in rows(document) if row[0].startswith("ours")), "")
        ratios = {
            peer: spread
            for pair, spread in document["ratios"].items()
            for peer, arm in [pair.split(" / ", 1)]
            if arm == ours and peer not in CEILINGS
        }
        cheapest = sorted(ratios.items(), key=lambda item: item[1]["median"])
        told = [
            f"{html.escape(peer)} <b>{s['median']:.2f}</b> ({min(s['values']):.2f}–{max(s['values']):.2f})"
            for peer, s in cheapest
        ]
        job = f'<a href="#{name}">{_title(name, document)}</a>'
        words = f"{job}<br><small>{html.escape(str(ours))}</small>"
        lines.append(f"<tr><td>{words}<td class=text>{'<br>'.join(told) or 'no peers'}</tr>")
    return "\n".join([*lines, "</table>"]) if len(lines) > 1 else ""


def _all_losses(documents: dict[str, dict[str, Any]], names: list[str]) -> str:
    lines = [
        f'<li><a href="#{name}">{_title(name, documents[name])}</a>: {html.escape(line)}'
        for name in names
        for line in losses(documents[name])
    ]
    words = "The share of our cost that the other needs, for every pair in which it needs less than ours."
    return f"<p>{words}</p><ul>" + ("\n".join(lines) or "<li>nowhere in these results") + "</ul>"


def _section(name: str, document: dict[str, Any], text: str) -> str:
    """One result: what is inside the timer, its plot, its numbers, what it loses, and where it was measured."""
    inside = {arm["inside"] for arm in document["arms"]}
    parts = [f'<section id="{name}"><h2>{_title(name, document)}</h2>']
    if len(inside) == 1:
        parts.append(f"<p>Inside the timer: {html.escape(inside.pop())}.</p>")
    parts.append(f'<img src="{name}.png" alt="{html.escape(name)}">')
    if text:
        parts.append(f"<pre>{html.escape(text)}</pre>")
    parts.append(_table(document))
    if verdict := document.get("verdict"):
        parts.append(f"<p><b>Verdict:</b> {html.escape(verdict)}.</p>")
    lost = losses(document) or ["nowhere in this result"]
    parts.append("<h3>Where we lose</h3><ul>" + "".join(f"<li>{html.escape(line)}" for line in lost) + "</ul>")
    parts.append(_story(name, document) + "</section>")
    return "\n".join(parts)


def _table(document: dict[str, Any]) -> str:
    data = rows(document)
    relative = any(row[0].startswith("ours") for row in data)  # else there is nothing to be relative to
    inside = {arm["name"]: arm["inside"] for arm in document["arms"]}
    several = len(set(inside.values())) > 1
    head = f"<table><tr><th><th>{unit_words(document)} per sample<th>lowest–highest"
    lines = [head + "<th>in ours' cheapest" * relative + "<th class=text>inside the timer" * several + "</tr>"]
    digits = 3 if unit_of(document) == "cpu_ms" and data[0][1] < 0.1 else 2
    for name, middle, low, high, times in data:
        row = f"<tr><td>{html.escape(name)}<td>{middle:.{digits}f}<td>{low:.{digits}f}–{high:.{digits}f}"
        row += f"<td>{times:.2f}×" * relative + f"<td class=text>{html.escape(inside[name])}" * several
        lines.append(row + "</tr>")
    return "\n".join([*lines, "</table>"])


def _story(name: str, document: dict[str, Any]) -> str:
    """Machine, versions, commit and settings."""
    machine = document["machine"]
    where = f"{machine['processor']}, {machine['cores']} cores, GPU: {machine['gpu'] or 'none'}; "
    versions = ", ".join(f"{k} {v}" for k, v in document["versions"].items())
    settings = ", ".join(f"{k} {v}" for k, v in document["settings"].items() if v not in (None, [], False))
    told = f"{where}commit {document['commit']}. {versions}. Settings: {settings}. results/{name}.json"
    return f"<details><summary>Machine, versions, settings</summary>{html.escape(told)}</details>"
