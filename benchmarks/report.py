"""Shows what was measured: Markdown tables and plots, from benchmarks/results/*.json.

python -m benchmarks.report                       # prints every result as Markdown
python -m benchmarks.report --out report          # writes it to report/README.md, with a plot of every result
python -m benchmarks.report --readme              # renews the tables in README.md and benchmarks/results/README.md
python -m benchmarks.report --agree a.json b.json # two runs of one command: do they agree?

"Where we lose" is made from the same files and cannot be switched off.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmarks import growth, host, roofline, service, stream, throughput, versions
from benchmarks.program import parse
from benchmarks.results import FOLDER, UNITS, agreement, load, losses, rows, unit_of
from precompute.base.errors import BadValue, UserError
from precompute.base.files import replacing
from precompute.base.markup import code
from precompute.base.markup import markdown as text_of
from precompute.base.options import option
from precompute.base.program import main

README = Path(__file__).resolve().parent.parent / "README.md"
RESULTS_README = FOLDER / "README.md"
TABLES = {
    "host": host.table, "roofline": roofline.table, "service": service.table, "stream": stream.table,
    "sweep": growth.table, "throughput": throughput.table, "versions": versions.table,
}  # fmt: skip
HEADLINE = "throughput-cpu-decode-apply"


@dataclass(frozen=True)
class ReportSettings:
    """The program's settings and their only defaults."""

    results: str = option(str(FOLDER), "folder of result files")
    out: str | None = option(None, "folder for README.md and the plots; default: the Markdown is printed")
    readme: bool = option(False, "renew the tables between the markers of the committed README files")
    agree: tuple[str, ...] = option((), "only compare two result files: do their ratios agree within their spreads?")

    def __post_init__(self) -> None:
        if len(self.agree) not in (0, 2):
            raise BadValue("agree", self.agree, "two result files")


def program(argv: list[str] | None = None) -> int:
    """Reads and checks every result, then shows them. Exit status 0 done, 1 failed, 2 usage."""
    settings = parse(ReportSettings, "benchmarks.report", __doc__, argv)
    if settings.agree:
        return _compare(*(load(path) for path in settings.agree))
    paths = sorted(Path(settings.results).glob("*.json"))
    if not paths:
        example = "python -m benchmarks.throughput --out FILE makes one"
        raise UserError(f"{settings.results}: no result files (*.json); {example}")
    documents = {path.stem: load(path) for path in paths}
    if settings.readme:
        renew(README, "benchmarks", markdown(documents))
        renew(RESULTS_README, "results", summary(documents))
    if settings.out is not None:
        _write(Path(settings.out), documents)
    elif not settings.readme:
        print(summary(documents))
    return 0


def _write(folder: Path, documents: dict[str, dict[str, Any]]) -> None:
    for name, document in documents.items():
        with replacing(folder / f"{name}.png") as temporary:
            plot(document, temporary)
    with replacing(folder / "README.md") as temporary:
        temporary.write_text(summary(documents, plots=True) + "\n")
    print(f"{folder / 'README.md'}: {len(documents)} results")


def renew(path: Path, name: str, text: str) -> None:
    """Puts `text` between the file's markers of that name."""
    new = with_table(path.read_text(), text, name)
    with replacing(path) as temporary:
        temporary.write_text(new)
    print(f"{path.parent.name}/{path.name}: {name} renewed")


def _compare(a: dict[str, Any], b: dict[str, Any]) -> int:
    """Prints every ratio of both results; 1 where their spreads do not overlap, or no ratio is in both."""
    verdicts = agreement(a, b)
    for name, (overlap, close) in verdicts.items():
        both = (document["ratios"][name] for document in (a, b))
        spreads = (f"{r['median']:.3f} [{min(r['values']):.3f}, {max(r['values']):.3f}]" for r in both)
        print(f"{name:60} {'  '.join(spreads)}  {('agree' if close else 'overlap') if overlap else 'DIFFER'}")
    overlaps, closes = (sum(verdict[k] for verdict in verdicts.values()) for k in (0, 1))
    agreed = f"{overlaps} of {len(verdicts)} ratios agree within their spreads"
    print(f"{agreed}; of {closes} each one's median lies in the other's spread")
    return 0 if overlaps == len(verdicts) > 0 else 1


def markdown(documents: dict[str, dict[str, Any]]) -> str:
    """README's headline table, from the headline result; the main ratio also from other machines and photographs."""
    if HEADLINE not in documents:
        raise UserError(f"README's table is made from {HEADLINE}.json, which is not among the results")
    document = documents[HEADLINE]
    machine, settings = document["machine"], document["settings"]
    repeats = f"{settings['repeats']} interleaved repeats in each of {document.get('rounds', 1)} processes"
    lines = [
        f"CPU time of two {settings['size']}-pixel views of a photograph, {document['arms'][0]['inside']}",
        f"({text_of(machine['processor'])}, {repeats}; losses included):",
        "",
        "| | CPU ms per image | lowest–highest | in ours' cheapest |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {text_of(n)} | {m:.2f} | {a:.2f}–{b:.2f} | {x:.2f}× |" for n, m, a, b, x in rows(document)]
    lines += ["", "Where we lose, and the share of our CPU time that the other needs:", ""]
    lines += [f"- {text_of(lost)}" for lost in losses(document) or ["nowhere"]]
    if elsewhere := {n.partition("@")[2]: d for n, d in documents.items() if n.startswith(HEADLINE + "@")}:
        ratios = [f"{text_of(where)} {_main_ratio(other)}" for where, other in {"here": document, **elsewhere}.items()]
        words = "OpenCV's cost over that of our cheapest, lowest to highest in brackets"
        lines += ["", f"{words}: {'; '.join(ratios)}. What is what: benchmarks/README.md."]
    return "\n".join(lines)


def _main_ratio(document: dict[str, Any]) -> str:
    ours = next(name for name, *_ in rows(document) if name.startswith("ours"))
    ratio = document["ratios"].get(f"opencv / {ours}")
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else "not measured"


def with_table(text: str, table: str, name: str = "benchmarks") -> str:
    """`text` with `table` between its markers of that name. UserError where they are missing."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if begin not in text or end not in text:
        raise UserError(f"README.md has no {begin} … {end} to put the table between")
    head, rest = text.split(begin, 1)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}"


def summary(documents: dict[str, dict[str, Any]], *, plots: bool = False) -> str:
    """Every result as Markdown: where it was measured, its table, where we lose; and an image NAME.png."""
    parts = []
    for name, document in documents.items():
        machine, boxes = document["machine"], document["settings"].get("boxes")
        photographs = f"photographs of {text_of(Path(boxes).name)}; " if boxes else ""
        processor, gpu, commit = map(text_of, (machine["processor"], machine["gpu"] or "none", document["commit"]))
        where = f"{processor}, {machine['cores']} cores, GPU: {gpu}; {photographs}"
        parts += [f"### {code(f'results/{name}.json')}", "", f"{where}commit {commit}.", ""]
        parts += ["```", table(document).strip("\n"), "```", ""]
        parts += [f"![{text_of(name)}]({quote(name)}.png)", ""] if plots else []
        if lost := losses(document):
            parts += [
                "Where we lose, and the share of our cost that the other needs:",
                *(f"- {text_of(x)}" for x in lost),
                "",
            ]
    return "\n".join(parts).rstrip()


def table(document: dict[str, Any]) -> str:
    """The table that the benchmark itself prints; where it has none, a line an arm."""
    if own := TABLES.get(document["benchmark"]):
        return own(document)
    lines = [f"{'':44} {UNITS[unit_of(document)] + ' a sample':>26}  lowest–highest"]
    lines += [f"{n:44} {m:26.3f}  {a:.3f}–{b:.3f}" for n, m, a, b, _ in rows(document)]
    return "\n".join(lines)


def plot(document: dict[str, Any], path: Path) -> None:
    """Draws a PNG: a line an arm over what is varied, or a bar an arm with its spread."""
    from matplotlib.figure import Figure

    lines = "sweep" in document
    height = 5.0 if lines else 0.4 * (len(document["arms"]) + 2 * ("roofline" in document)) + 1.2
    figure = Figure(figsize=(8, height), layout="constrained")
    (_draw_lines if lines else _draw_bars)(document, figure.subplots())
    figure.savefig(path, format="png", dpi=120)


def _draw_lines(document: dict[str, Any], axes: Any) -> None:
    from matplotlib.ticker import LogLocator

    sweep = document["sweep"]
    for name, costs in sweep["costs"].items():
        style = "-o" if name.startswith("ours") else "--s"
        axes.loglog(sweep["values"], costs, style, label=f"{name} (slope {sweep['slopes'][name]:.2f})")
    axes.set_xticks(sweep["values"], [f"{v:g}" for v in sweep["values"]])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel(sweep["words"])
    axes.set_ylabel(f"{UNITS[unit_of(document)]} per sample")
    axes.set_title(f"cost by {sweep['words']}")
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize="small")


def _draw_bars(document: dict[str, Any], axes: Any) -> None:
    data = rows(document)
    bounds = document.get("roofline", {}).get("bounds_ms", {})
    data += [(f"bound of {what}", bound, bound, bound, "") for what, bound in bounds.items()]
    errors = [[m - a for _, m, a, _, _ in data], [b - m for _, m, _, b, _ in data]]
    colours = ["#1f77b4" if name.startswith("ours") else "#999999" for name, *_ in data]
    axes.barh([name for name, *_ in data], [m for _, m, *_ in data], xerr=errors, color=colours)
    axes.invert_yaxis()
    if max(m for _, m, *_ in data) > 50 * min(m for _, m, *_ in data) > 0:  # else small bars could not be read
        axes.set_xscale("log")
    axes.set_xlabel(f"{UNITS[unit_of(document)]} per sample (median, lowest to highest)")
    axes.set_title(document["settings"].get("scope", document["benchmark"]))


if __name__ == "__main__":
    main(program)
