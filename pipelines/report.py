"""What was found, for people: the closing table on the terminal and `OUT/summary.html`.

Both read the tables, not the run's memory, so they say what anyone else would find there. Everything that came from a
file is escaped: names are the uploader's.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .. import __version__
from ..transforms.failures import printable
from ..transforms.store import OutputStore

WHAT_THE_WORDS_MEAN = (
    "inconclusive: evidence that decides nothing; not_assessed: no calibrated detector could judge, `reasons` says why"
)
SUSPICIOUS_BELOW = 0.45
"""Authenticity; nearer to 0.5 a file is not worth a look before others, and its name not worth a place on a page."""
VERDICTS = ("manipulated", "inconclusive", "authentic", "not_assessed")
WHAT_A_SCORE_IS_NOT = (
    "A score is not proof. It says how the evidence that these detectors found weighs, by the calibration named below; "
    "`inconclusive` and `not_assessed` say that deephotlink does not know. Look at the evidence before you act."
)


_NEWEST = "qualify row_number() over (partition by media_id order by run_id desc) = 1"
_SCORED = f"(select * from scores {_NEWEST})"
_UNSCORED = f"""
    t where t.media_id not in (select media_id from scores)
    and not exists (select 1 from scores s where s.uri = t.uri and s.run_id > t.run_id) {_NEWEST}"""
"""Not scored, nor its file since in another version (it was `changed` or `missing` in between)."""
_TOTALS = f"""
    select coalesce(sum(assessed_seconds), 0), coalesce(sum(frames_decoded), 0), coalesce(sum(faces), 0)
    from {_SCORED}"""
_WORST = f"""
    select uri, verdict, authenticity, reasons from {_SCORED}
    where authenticity is not null order by authenticity, uri limit ?"""
_VERDICTS = f"select verdict, count(*) from {_SCORED} group by 1 order by 2 desc"
_FAILURES = f"select error_class, count(*) from (select * from failures {_UNSCORED}) group by 1 order by 2 desc, 1"
_FAILED = (
    f"select uri, error_class, message from (select * from failures {_UNSCORED}) order by error_class, uri limit ?"
)
_SKIPPED = f"select reason, count(*) from (select * from skipped {_UNSCORED}) group by 1 order by 2 desc, 1"
_DECODERS = f"select decoder, count(*) from {_SCORED} where decoder is not null group by 1 order by 1"
_CALIBRATIONS = f"select distinct calibration_id from {_SCORED} order by 1"


@dataclass(frozen=True, slots=True)
class Suspicious:
    uri: str
    verdict: str
    authenticity: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The state of OUT, one row a media (the latest)."""

    verdicts: dict[str, int]
    failures: dict[str, int]
    skipped: dict[str, int]
    decoders: dict[str, int]
    assessed_seconds: float
    frames_decoded: int
    faces: int
    suspicious: tuple[Suspicious, ...]
    calibrations: tuple[str, ...]
    failed: tuple[tuple[str, str, str], ...] = ()
    """uri, class and message of the first few failures."""

    @property
    def media(self) -> int:
        return sum(self.verdicts.values()) + sum(self.failures.values()) + sum(self.skipped.values())

    def as_json(self) -> dict[str, Any]:
        return {"media": self.media, **asdict(self)}


def summarise(tables: duckdb.DuckDBPyConnection, most: int = 20) -> Summary:
    """Reads the latest row of every media from the views of `query.connect`."""

    def counts(sql: str) -> dict[str, int]:
        return {str(name): int(number) for name, number in tables.execute(sql).fetchall()}

    totals = tables.execute(_TOTALS).fetchone() or (0.0, 0, 0)
    worst = tables.execute(_WORST, [most]).fetchall()
    return Summary(
        counts(_VERDICTS),
        counts(_FAILURES),
        counts(_SKIPPED),
        counts(_DECODERS),
        float(totals[0]),
        int(totals[1]),
        int(totals[2]),
        tuple(Suspicious(str(u), str(v), float(a), tuple(r or ())) for u, v, a, r in worst),
        tuple(row[0] for row in tables.execute(_CALIBRATIONS).fetchall()),
        tuple((str(u), str(c), str(m)) for u, c, m in tables.execute(_FAILED, [most]).fetchall()),
    )


def print_summary(summary: Summary, console: Console, output: str) -> None:
    """The closing table: verdicts, then failures and skips by class, then the most suspicious files."""
    table = Table(title="What was found", title_justify="left", show_edge=False)
    table.add_column("outcome")
    table.add_column("files", justify="right")
    for name in VERDICTS:
        if summary.verdicts.get(name):
            table.add_row(name, str(summary.verdicts[name]))
    for kind, classes in (("failed", summary.failures), ("skipped", summary.skipped)):
        for name, number in classes.items():
            table.add_row(escape(f"{kind}: {printable(name)}"), str(number))
    table.add_row("all", str(summary.media), style="bold")
    console.print(table)
    decoders = ", ".join(f"{number} by {name}" for name, number in summary.decoders.items()) or "none"
    console.print(
        f"\n{summary.assessed_seconds:.0f} s of film looked at, {summary.frames_decoded} frames decoded "
        f"(videos: {decoders}), {summary.faces} face tracks",
        highlight=False,
    )
    if summary.verdicts.get("inconclusive") or summary.verdicts.get("not_assessed"):
        console.print(WHAT_THE_WORDS_MEAN, highlight=False)
    if summary.failed:
        failed = Table(title="\nCould not be read", title_justify="left", show_edge=False)
        for column in ("class", "file", "why"):
            failed.add_column(column, overflow="fold")
        for uri, error_class, message in summary.failed[:5]:
            name = printable(uri.rsplit("/", 1)[-1], 60)
            failed.add_row(*(escape(text) for text in (error_class, name, printable(message, 120))))
        console.print(failed)
    told = [s for s in summary.suspicious if s.authenticity < SUSPICIOUS_BELOW][:5]
    if told:
        worst = Table(title="\nMost suspicious", title_justify="left", show_edge=False)
        worst.add_column("authenticity", justify="right")
        worst.add_column("verdict")
        worst.add_column("file", overflow="fold")
        worst.add_column("why", overflow="fold")
        for s in told:
            name = printable(s.uri.rsplit("/", 1)[-1], 60)
            worst.add_row(
                f"{s.authenticity:.2f}", s.verdict, escape(name), escape(printable("; ".join(s.reasons[:1]), 160))
            )
        console.print(worst)
    console.print(
        f"\nTables and summary.html: {escape(printable(output))}   "
        f"Ask: deephotlink query {escape(printable(output))} "
        '"select verdict, count(*) from latest group by 1"',
        highlight=False,
        soft_wrap=True,
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .8rem;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top;overflow-wrap:anywhere}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}"
    "p.note{background:#fff6df;padding:.6rem 1rem}ul{margin:0;padding-left:1.1rem}"
    "@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}td,th{border-color:#444}"
    "p.note{background:#3a3320}}"
)


def summary_html(summary: Summary) -> str:
    """A page of its own: no script, no request, everything escaped, a content security policy that says so."""

    def cell(text: object) -> str:
        return html.escape(printable(str(text), 1000))

    def counted(title: str, rows: Sequence[tuple[str, int]]) -> str:
        body = "".join(f"<tr><td>{cell(n)}</td><td class=n>{c}</td></tr>" for n, c in rows)
        return f"<h2>{cell(title)}</h2><table>{body}</table>" if rows else ""

    def listed(title: str, rows: Sequence[tuple[str, ...]]) -> str:
        body = "".join(f"<tr>{''.join(f'<td>{cell(text)}</td>' for text in row)}</tr>" for row in rows)
        return f"<h2>{cell(title)}</h2><table>{body}</table>" if rows else ""

    verdicts = [(v, summary.verdicts[v]) for v in VERDICTS if summary.verdicts.get(v)]
    worst = "".join(
        f"<tr><td class=n>{s.authenticity:.3f}</td><td>{cell(s.verdict)}</td><td>{cell(s.uri)}</td>"
        f"<td><ul>{''.join(f'<li>{cell(r)}</li>' for r in s.reasons)}</ul></td></tr>"
        for s in summary.suspicious
        if s.authenticity < SUSPICIOUS_BELOW
    )
    suspicious = (
        "<h2>Most suspicious</h2><table><tr><th>authenticity</th><th>verdict</th><th>file</th><th>reasons</th></tr>"
        f"{worst}</table>"
        if worst
        else "<h2>Most suspicious</h2><p>No file leans towards manipulation.</p>"
    )
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\"><meta name=viewport content='width=device-width'>"
        f"<title>deephotlink summary</title><style>{_STYLE}</style><h1>What was found</h1>"
        f"<p>{summary.media} files; {summary.assessed_seconds:.0f} seconds of film looked at, {summary.frames_decoded} "
        f"frames decoded, {summary.faces} face tracks.</p><p class=note>{cell(WHAT_A_SCORE_IS_NOT)}</p>"
        + counted("Verdicts", verdicts)
        + suspicious
        + counted("Failures by class", list(summary.failures.items()))
        + listed("Could not be read", summary.failed)
        + counted("Skipped, by reason", list(summary.skipped.items()))
        + f"<p>Calibration: {cell(', '.join(summary.calibrations) or 'none')}. Authenticity: 1 = authentic, 0 = "
        f"manipulated. deephotlink {cell(__version__)}.</p></html>\n"
    )


def write_page(store: OutputStore, name: str, page: str) -> None:
    """Puts a page that may change from run to run: whole or not at all, the last one wins.

    Raises:
        UsageError: nothing may be written there. WorldError: storage or disk failed.
    """
    store.replace(name, page.encode("utf-8", "replace"))
