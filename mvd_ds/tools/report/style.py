"""The style sheet of the report: no fonts to fetch, light and dark by the reader's wish, light on paper."""

from mvd_ds.tools.report.markup import Html

_LIGHT = """
  --paper: #fdfdfc; --ink: #1d2127; --muted: #626a75; --rule: #d9dce1; --accent: #1f5fa8; --calm: #7fa6cf; --faint: #c3c8cf;
  --wash: #f3f4f3; --warn: #9a5b00;
  --series-0: #1f5fa8; --series-1: #c8641b; --series-2: #2c8a6b; --series-3: #8b4a9e;
  --series-4: #b8942a; --series-5: #b33a4c; --series-6: #4aa3bf; --series-7: #6b6f76;
"""
_DARK = """
  --paper: #16181c; --ink: #e4e6e9; --muted: #9aa2ad; --rule: #343940; --accent: #6fa8e6; --calm: #3f6a98; --faint: #4b5159;
  --wash: #1e2126; --warn: #e0a95a;
  --series-0: #6fa8e6; --series-1: #e8925a; --series-2: #5fbf9f; --series-3: #c08ad2;
  --series-4: #d9bd63; --series-5: #e47a89; --series-6: #7cc8de; --series-7: #a2a8b0;
"""
STYLE = Html(
    f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 70rem; padding: 3rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; margin: 0 0 0.3rem; }}
h2 {{ font-size: 1.15rem; font-weight: 650; margin: 3.2rem 0 0.6rem; padding-top: 0.9rem; border-top: 1px solid var(--rule); }}
h3 {{ font-size: 0.95rem; font-weight: 650; margin: 1.8rem 0 0.2rem; }}
p, ul {{ max-width: 46rem; margin: 0.4rem 0 0.8rem; }}
.lead {{ font-size: 1.2rem; line-height: 1.5; margin: 1.4rem 0 0.8rem; max-width: 50rem; }}
.quiet, figcaption, caption {{ color: var(--muted); font-size: 0.87rem; }}
.attention {{ list-style: none; padding: 0; margin-top: 1rem; }}
.attention li {{ padding: 0.1rem 0 0.1rem 0.8rem; border-left: 3px solid var(--warn); margin: 0.45rem 0; }}
code, pre {{ font: 0.82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }}
code {{ overflow-wrap: anywhere; }}
pre {{ background: var(--wash); padding: 1rem; overflow: auto; margin: 0.5rem 0 1rem; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: 0.8rem 0 0.6rem; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: right; padding: 0.34rem 0 0.34rem 1.7rem; white-space: nowrap; vertical-align: baseline; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
thead th {{ color: var(--muted); font-weight: 500; font-size: 0.87rem; border-bottom: 1px solid var(--rule); }}
tbody th {{ font-weight: 400; }}
tbody tr + tr > * {{ border-top: 1px solid color-mix(in srgb, var(--rule) 55%, transparent); }}
tr.first th, tr.first td {{ font-weight: 650; }}
tr.aside th, tr.aside td {{ color: var(--muted); }}
tbody tr.group > * {{ border-top: 1px solid var(--ink); }}
td small, th small {{ color: var(--muted); font-weight: 400; font-size: 0.82rem; margin-left: 0.5em; }}
table.stages th:nth-child(2), table.stages td:nth-child(2), table.stages th:nth-child(3), table.stages td:nth-child(3) {{
  text-align: left; }}
table.words td, table.words th {{ text-align: left; white-space: normal; overflow-wrap: anywhere; }}
table.words th, table.words td:first-child {{ white-space: nowrap; }}
table.words td.number {{ text-align: right; white-space: nowrap; }}
.share {{ display: inline-block; vertical-align: middle; width: 6rem; height: 0.5rem; margin: 0;
  background: var(--wash); }}
.share i {{ display: block; height: 100%; background: var(--calm); }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); gap: 1.2rem;
  margin: 0.8rem 0 0.4rem; }}
.panels.wide {{ grid-template-columns: repeat(auto-fill, minmax(27rem, 1fr)); align-items: start; }}
.beside {{ display: grid; grid-template-columns: max-content minmax(20rem, 1fr); gap: 0 3.5rem; align-items: start; }}
.beside > div {{ min-width: 0; max-width: 40rem; }}
.beside > div > p {{ width: 0; min-width: 100%; }}
.beside > figure {{ margin-top: 1.2rem; }}
figure {{ margin: 0; break-inside: avoid; min-width: 0; }}
figure > strong {{ font-weight: 600; font-size: 0.9rem; }}
.pictures {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(27rem, 1fr)); gap: 1.2rem; align-items: start; }}
.pictures img {{ display: block; max-width: 100%; height: auto; background: #fdfdfc; margin-top: 0.3rem; }}
svg {{ display: block; width: 100%; height: auto; }}
.pictures svg {{ max-width: 22rem; }}
svg * {{ stroke-linejoin: round; stroke-linecap: butt; }}
svg text {{ font-family: inherit !important; }}
.key {{ color: var(--muted); font-size: 0.87rem; margin: 0.2rem 0; max-width: none; }}
.key span {{ white-space: nowrap; margin-right: 1.3em; display: inline-block; }}
.key i {{ display: inline-block; width: 1.5em; margin-right: 0.5em; vertical-align: 0.25em; border-top: 2.5px solid; }}
.key i.block {{ width: 0.75em; height: 0.75em; border: 0; vertical-align: -0.05em; }}
details {{ margin: 0.4rem 0; }}
summary {{ cursor: pointer; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1.5rem; margin: 0.6rem 0 1.2rem; }}
dt {{ color: var(--muted); }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
@media (max-width: 62rem) {{ .beside {{ grid-template-columns: 1fr; }} }}
@media (max-width: 36rem) {{ body {{ padding: 1.5rem 1rem; }} .panels, .panels.wide {{ grid-template-columns: 1fr; }} }}
@media print {{
  :root {{ color-scheme: light; {_LIGHT} --paper: #fff; }}
  @page {{ margin: 14mm; }}
  body {{ max-width: none; padding: 0; font-size: 9.5pt; }}
  h2 {{ margin-top: 1.8rem; }}
  h2, h3, .key {{ break-after: avoid; }}
  .together, .scroll {{ break-inside: avoid; }}
  .scroll {{ overflow: visible; }}
  th, td {{ padding-left: 0.9rem; }}
  .share {{ width: 3rem; print-color-adjust: exact; }}
  .key i {{ print-color-adjust: exact; }}
  .beside {{ grid-template-columns: max-content minmax(0, 1fr); gap: 0 2rem; }}
  tr, pre {{ break-inside: avoid; }}
  .pictures {{ grid-template-columns: repeat(2, 1fr); }}
  .pictures img {{ max-height: 165mm; print-color-adjust: exact; }}
  .panels {{ grid-template-columns: repeat(3, 1fr); }}
  .panels.wide {{ grid-template-columns: repeat(2, 1fr); }}
}}
"""
)
