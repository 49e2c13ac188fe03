"""Makes tables, plots and the README's rows from lines of results."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bench import record
from bench.pool.sets import QUICK, SETS
from bench.report import age, chart, headline, markdown, plots, summary
from bench.scenarios import HEADLINES, SCENARIOS

#: The scenario of the README's chart, and its file.
CHARTED, CHART = "cnn-large", "time-against-memory.svg"


def write(results: Path, readme: Path | None) -> list[Path]:
    """Write ``README.md`` and the pictures into ``results``, and the headlines into ``readme``; the paths written.

    Each model that was measured layer by layer gets a page of its own, to which ``README.md`` leads. A folder ``docs``
    beside ``readme`` gets the chart of time against memory.

    Raises:
        FileNotFoundError: the folder has no results.
    """
    measured, pools, servers, layers = _measured(results), _pools(results), _servers(results), _layers(results)
    if not measured and not pools and not servers:
        if layers:
            return layers
        raise FileNotFoundError(f"no measurements in {results}: first `python -m bench run`")
    tables = {name: summary.tables(records) for name, records in measured.items()}
    written = []
    for name, found in tables.items():
        plotted = [table for table in found if any(row.times for row in table.rows)]
        if plotted and not SCENARIOS[name].memory:
            written.append(plots.draw(SCENARIOS[name], plotted, results / f"{name}.png"))
        if (path := _chart(name, results, readme)) and any(any(chart.points([table])) for table in found):
            written.append(chart.draw(found, path))
    report = results / "README.md"
    text = markdown.report(measured, tables, {path.name for path in written}, pools + servers)
    several = markdown.are_several(record for of in (*measured.values(), pools, servers) for record in of)
    report.write_text(text + _pool_tables(pools, several) + _server_tables(servers, several) + _led_to(layers))
    written += [report, *layers]
    if readme:
        markdown.replace_table(readme, rows(results))
        written.append(readme)
    return written


def _chart(name: str, results: Path, readme: Path | None) -> Path | None:
    """The file of a scenario's chart: beside the README, or among the results. None if it has none."""
    if not SCENARIOS[name].chart:
        return None
    if name != CHARTED:
        return results / f"{name}-memory.svg"
    return readme.parent / "docs" / CHART if readme else None


def headlines(results: Path) -> list[headline.Headline]:
    """The README's rows: of a run of the rows alone, where a scenario has one, and of pools and servers."""
    measured = _measured(results) | _measured(results / HEADLINES)
    tables = {name: summary.tables(records) for name, records in measured.items()}
    pools, servers = headline.of_pools(_pools(results)), headline.of_servers(_servers(results))
    return [*headline.of_scenarios(measured, tables), *pools, *servers]


def charted(results: Path) -> list[headline.Headline]:
    """The README's chart, as rows without times: one for each state of the code that it was measured with."""
    records = _measured(results).get(CHARTED, [])
    title = SCENARIOS[CHARTED].title
    by_code = {record.get("code"): record for record in records}
    return [headline.Headline(title, None, "ok", "", None, None, record, "models") for record in by_code.values()]


def rows(results: Path) -> str:
    """The README's rows, and what they say of commits and machines."""
    return markdown.headlines(headlines(results), age.kept(results))


def _measured(results: Path) -> dict[str, list[record.Record]]:
    """The lines of each scenario that has results in this folder."""
    measured = {}
    for name in SCENARIOS:
        for path in (results / f"{name}.jsonl", results / f"{name}.partial.jsonl"):
            if name not in measured and path.exists() and (records := record.read([path])):
                measured[name] = records
    return measured


def _pools(results: Path) -> list[record.Record]:
    """The lines of all sets of models of pools that have results in this folder."""
    return record.read(path for name in (*SETS, QUICK.name) if (path := results / f"pool-{name}.jsonl").exists())


def _servers(results: Path) -> list[record.Record]:
    """The lines about servers, if this folder has them."""
    return record.read(path for path in [results / "serve.jsonl"] if path.exists())


def _layers(results: Path) -> list[Path]:
    """Write the page of each model that has complete results layer by layer in this folder; the paths written."""
    from bench.layers import table  # here, because it imports this package

    pages = []
    for path in sorted(results.glob("layers-*.jsonl")):
        try:
            text = table.report(record.read([path]))
        except ValueError:  # it was interrupted
            continue
        pages.append(path.with_suffix(".md"))
        pages[-1].write_text(f"{text}\n")
    return pages


def _led_to(layers: list[Path]) -> str:
    """The end of ``README.md``: links to the pages of layers."""
    if not layers:
        return ""
    links = ", ".join(f"[{page.stem.removeprefix('layers-')}]({page.name})" for page in layers)
    return f"\n## Layer by layer\n\n{links}\n"


def _server_tables(records: list[record.Record], several: bool) -> str:
    from bench.serve import table  # here, because it imports this package

    try:
        return _section(table.report(records), records, several)
    except ValueError:  # nothing was measured
        return ""


def _pool_tables(records: list[record.Record], several: bool) -> str:
    from bench.pool import table  # here, because it imports this package

    text = ""
    for name in dict.fromkeys(each["set"] for each in records):
        of = [each for each in records if each["set"] == name]
        with contextlib.suppress(ValueError):  # they were only simulated
            text += _section(table.report(of), of, several)
    return text


def _section(text: str, records: list[record.Record], several: bool) -> str:
    """A section made elsewhere. If there are several machines or commits, its own follow the heading."""
    heading, _, rest = text.partition("\n\n")
    return "\n" + "\n\n".join([heading, *(markdown.origins(records) if several else []), rest]) + "\n"
