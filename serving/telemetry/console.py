"""The dashboards as a page of Prometheus 2 itself, for where there is no Grafana.

`python -m serving.telemetry.console FOLDER`; Prometheus serves the folder of its option
`--web.console.templates` at `/consoles/`, and has the script that draws.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from serving.telemetry.dashboards import DASHBOARDS
from serving.telemetry.panels import Panel

_UNITS = {
    "s": "s",
    "reqps": "requests/s",
    "percentunit": "1 = all",
    "bytes": "bytes",
    "d": "days",
    "currencyUSD": "$",
    "dateTimeAsIso": "Unix time",
}
# Prometheus runs the page as a template of Go: no two braces may stand together.
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Serving</title>
<link rel="stylesheet" href="/classic/static/rickshaw/rickshaw.min.css">
<link rel="stylesheet" href="/classic/static/css/prom_console.css">
<style>
body { font-family: sans-serif; margin: 1em }
nav a { margin-right: 1.5em }
nav a.shown { color: inherit; font-weight: bold; text-decoration: none }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(32em, 1fr)); gap: 1em 2em }
h2 { font-size: 1em; margin: 0 }
p { font-size: 0.8em; color: #555; margin: 0 0 1em }
</style>
<script src="/classic/static/d3/d3.min.js"></script>
<script src="/classic/static/rickshaw/rickshaw.min.js"></script>
<script>var PATH_PREFIX = "";</script>
<script src="/classic/static/js/prom_console.js"></script>
</head>
<body>
<nav></nav>
<p>The last five minutes, drawn anew every ten seconds. + below a graph opens its query.</p>
<main></main>
<script>
const DASHBOARDS = $dashboards;
const shown = new URLSearchParams(location.search).get("show") || "users";
function added(parent, kind, text) {
  const made = document.querySelector(parent).appendChild(document.createElement(kind));
  made.textContent = text;
  return made;
}
for (const [name, dashboard] of Object.entries(DASHBOARDS)) {
  const link = added("nav", "a", dashboard.title);
  link.href = "?show=" + name;
  link.className = name === shown ? "shown" : "";
}
added("nav", "a", "Alerts").href = "/alerts";
for (const panel of DASHBOARDS[shown].panels) {
  const section = added("main", "section", "");
  added("section:last-child", "h2", panel.title);
  added("section:last-child", "p", panel.description);
  const node = added("section:last-child", "div", "");
  const width = Math.min(section.clientWidth - 90, 700);
  new PromConsole.Graph({
    node, width, duration: 300, min: 0, expr: panel.queries, name: panel.names, yTitle: panel.unit,
    yAxisFormatter: (y) => y === 0 ? "" : PromConsole.NumberFormatter.humanize(y)
  });
}
setInterval(() => {
  for (const graph of PromConsole._graph_registry) {
    graph.params.endTime = Date.now() / 1000;
    graph.dispatch();
  }
}, 10000);
</script>
</body>
</html>
"""


def page() -> str:
    """All of `DASHBOARDS`; one is shown, that of the address's `show`."""
    told = {
        name: {"title": title, "panels": [_told(panel) for panel in shown]}
        for name, (title, shown) in DASHBOARDS.items()
    }
    return _PAGE.replace("$dashboards", json.dumps(told, indent=1).replace("</", "<\\/"))


def filled(query: str) -> str:
    """A query of all jobs and namespaces, without Grafana's variables."""
    query = query.replace("$__rate_interval", "1m").replace("$job", ".*")
    return query.replace("$namespace", ".*")


def _told(panel: Panel) -> dict[str, object]:
    """What the page's script wants to know."""
    return {
        "title": panel.title,
        "description": panel.description,
        "unit": _UNITS.get(panel.unit, ""),
        "names": [re.sub(r"{{(\w+)}}", r"[[\1]]", legend) for legend in panel.queries],
        "queries": [filled(query) for query in panel.queries.values()],
    }


def write(folder: Path) -> None:
    """The page, as a file."""
    (folder / "index.html").write_text(page())


if __name__ == "__main__":
    write(Path(sys.argv[1]))
