"""The page of reports and of profiles: style in light and dark, the one script it may run."""

from __future__ import annotations

import base64
import hashlib
import json

from hwnas.report.html import STYLE, document, security

N_KINDS = 8  # colours of kinds of kernels; further ones share the last

REPORT_STYLE = (
    STYLE
    + """
:root { color-scheme: light dark; --front: #1558b0; --trial: #8a97a8; --made: #d97706;
  --removed: #7a3e9d; --over: #c62828; --grid: #e6eaf0; --axis: #9aa5b5; --track: #e9eef5;
  --k0: #1558b0; --k1: #d97706; --k2: #2a8c5f; --k3: #7a3e9d; --k4: #0e8fb0; --k5: #b8406f;
  --k6: #8a6a1f; --k7: #8a97a8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4eaf2; --soft: #a2aebf; --line: #2a3545; --strong-line: #3d4b5f;
    --accent: #74abf5; --ground: #0e131a; --panel: #161d27; --hover: #1d2734; --code: #1d2632;
    --note: #2c2410; --note-line: #5f4d1c; --front: #6aa5f2; --trial: #7f8da1; --made: #f0a240;
    --removed: #c08be0; --over: #ff7b72; --grid: #232d3b; --axis: #56647a; --track: #253040;
    --k0: #5b9bf0; --k1: #eda345; --k2: #4fbf8b; --k3: #b98ae0; --k4: #3fb7d6; --k5: #e0719c;
    --k6: #c7a455; --k7: #7f8da1 }
}
.facts { display: flex; flex-wrap: wrap; gap: 6px; margin: 12px 0 0; padding: 0; list-style: none }
.facts li { background: var(--panel); border: 1px solid var(--line); border-radius: 99px;
  padding: 2px 12px; font-size: .85rem; color: var(--soft); overflow-wrap: anywhere }
.facts b { color: var(--ink); font-weight: 600 }
.plot { margin: 12px 0 0 } .plot svg { display: none; width: 100%; height: auto }
.plot .large { display: block } .plot.half { max-width: 680px }
.plot text { font: 12.5px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; fill: var(--ink);
  paint-order: stroke; stroke: var(--panel); stroke-width: 3px; stroke-linejoin: round }
.plot text.small { font-size: 12px; fill: var(--soft) } .plot text.strong { font-weight: 600 }
.end { text-anchor: end } .middle { text-anchor: middle }
.grid { stroke: var(--grid) } .axis { stroke: var(--axis) }
.trial { fill: var(--trial); fill-opacity: .5 }
.front, .network { fill: var(--front); stroke: var(--panel); stroke-width: 1.5 }
.twin { fill: var(--panel); stroke: var(--front); stroke-width: 2 }
.steps { fill: none; stroke: var(--front); stroke-width: 2 }
.removed { stroke: var(--removed); stroke-width: 2; fill: none }
.interval { stroke: var(--front); stroke-opacity: .5; stroke-width: 1.5 }
.interval.other { stroke: var(--made) }
.baseline { fill: var(--made); stroke: var(--panel) }
.budget { stroke: var(--over); stroke-width: 1.5; stroke-dasharray: 6 4 }
.plot text.over { fill: var(--over) }
.band { fill: var(--front); fill-opacity: .1 }
.equal { stroke: var(--trial); stroke-width: 1.5; stroke-dasharray: 3 4 }
.k0 { fill: var(--k0) } .k1 { fill: var(--k1) } .k2 { fill: var(--k2) } .k3 { fill: var(--k3) }
.k4 { fill: var(--k4) } .k5 { fill: var(--k5) } .k6 { fill: var(--k6) } .k7 { fill: var(--k7) }
circle[class^="k"] { fill-opacity: .8; stroke: var(--panel) }
rect[class^="k"] { stroke: var(--panel) } rect.frame { fill-opacity: .72 }
rect[class].slim { stroke: none }
.plot text.onkind { fill: var(--panel); stroke: none; pointer-events: none }
.disturbed { fill: var(--made) } .stolen { fill: var(--over) } .counted { fill: var(--front) }
.quartiles { fill-opacity: .14 } .curve { fill: none; stroke-width: 2 }
.use { fill: var(--front); fill-opacity: .16 }
.level { stroke: var(--ink); stroke-width: 1.3; stroke-dasharray: 2 3 }
.whisker { stroke: var(--soft); stroke-opacity: .45 }
[data-hint] { cursor: default } circle[data-hint]:hover, rect[data-hint]:hover {
  stroke: var(--ink); stroke-width: 2 }
.front[data-member], tr[data-member], .lane[data-member] { cursor: pointer }
.front.chosen { stroke: var(--ink); stroke-width: 2.5 } tr.chosen { background: var(--hover) }
.front:focus-visible, button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0 0; padding: 0;
  list-style: none; font-size: .85rem; color: var(--soft) }
.legend li { display: flex; align-items: center; gap: 7px }
.legend svg { width: 20px; height: 18px; flex: none }
.swatch { width: 11px; height: 11px; border-radius: 3px; flex: none }
.bars { display: grid; grid-template-columns: minmax(0, auto) minmax(70px, 1fr) auto;
  gap: 7px 14px; align-items: center; margin: 12px 0 0; font-size: .9rem;
  font-variant-numeric: tabular-nums }
.bar { display: grid; grid-template-columns: subgrid; grid-column: 1 / -1; align-items: center }
.bar span { overflow-wrap: anywhere; max-width: 20em }
.bar em { font-style: normal; text-align: right; color: var(--soft) }
.bar b { color: var(--ink); font-weight: 600 }
.track { position: relative; height: 13px; border-radius: 4px; background: var(--track);
  overflow: hidden; display: flex }
.track i { height: 100%; background: var(--front) } .track i.more { opacity: .38 }
.track i + i { border-left: 1px solid var(--panel) }
.track u { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--ink) }
.faint { opacity: .5 }
.lanes { display: grid; grid-template-columns: minmax(0, auto) minmax(50%, 1fr) auto; gap: 9px 14px;
  align-items: center; margin: 14px 0 0; font-size: .9rem; font-variant-numeric: tabular-nums }
.lane { display: contents } .lane span, .tabs button, .legend li, h3 { overflow-wrap: anywhere }
.lane .track { height: 20px; background: none }
.lane.chosen > span:first-child { color: var(--accent); font-weight: 600 }
.tabs { display: none; flex-wrap: wrap; gap: 6px; margin: 12px 0 4px } .js .tabs { display: flex }
.tabs button { font: inherit; font-size: .9rem; padding: 4px 13px; border-radius: 99px;
  border: 1px solid var(--line); background: none; color: var(--ink); cursor: pointer }
.tabs button:hover { background: var(--hover) }
.tabs button.chosen { background: var(--accent); border-color: var(--accent); color: var(--panel) }
.js .member:not(.chosen) { display: none }
.member { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 7fr); gap: 8px 32px;
  margin-top: 16px }
.member + .member { border-top: 1px solid var(--line); padding-top: 16px }
.js .member + .member { border: 0; padding: 0 }
.member > div { min-width: 0 } .member h3 { margin: 0 0 8px; font-size: 1.05rem }
details.whole { margin: 0 } details dl { margin-top: 8px }
.member h4 { font-size: .9rem; margin: 22px 0 0 }
.member img { display: block; max-width: 100%; height: auto; border-radius: 8px }
dl { display: grid; grid-template-columns: auto minmax(0, 1fr); gap: 4px 18px; margin: 0;
  font-size: .9rem; font-variant-numeric: tabular-nums }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
#hint { position: fixed; z-index: 9; left: 0; top: 0; max-width: min(380px, calc(100vw - 24px));
  background: var(--panel); color: var(--ink); border: 1px solid var(--strong-line);
  border-radius: 8px; padding: 8px 12px; font-size: .82rem; line-height: 1.45;
  box-shadow: 0 6px 20px rgb(0 0 0 / .18); pointer-events: none; white-space: pre-line;
  overflow-wrap: anywhere }
#hint[hidden] { display: none } #hint b { display: block }
@media (max-width: 899px) {
  .plot .large { display: none } .plot .medium { display: block }
  .member { grid-template-columns: minmax(0, 1fr) }
}
@media (max-width: 599px) {
  .plot .medium { display: none } .plot .compact { display: block }
  .bars { grid-template-columns: minmax(0, 1fr); gap: 10px }
  .bar { grid-template: "label value" auto "track track" auto / minmax(0, 1fr) auto; gap: 3px 12px }
  .bar span { grid-area: label } .bar .track { grid-area: track } .bar em { grid-area: value }
  .lanes { gap: 9px 8px; font-size: .8rem }
}
@media print { section { break-inside: avoid } .tabs { display: none } }
"""
)

SCRIPT = """
'use strict';
document.documentElement.classList.add('js');
const hints = JSON.parse(document.getElementById('hints').textContent);
const box = document.createElement('div');
box.id = 'hint';
box.hidden = true;
document.body.append(box);
function show(mark, x, y) {
  const [first, ...rest] = hints[Number(mark.dataset.hint)].split('\\n');
  const title = document.createElement('b');
  title.textContent = first;
  box.replaceChildren(title, rest.join('\\n'));
  box.hidden = false;
  const left = Math.min(x + 14, innerWidth - box.offsetWidth - 8);
  const below = y + 16 + box.offsetHeight < innerHeight;
  box.style.left = Math.max(8, left) + 'px';
  box.style.top = Math.max(8, below ? y + 16 : y - box.offsetHeight - 12) + 'px';
}
function choose(place, isAsked) {
  for (const part of document.querySelectorAll('[data-member]')) {
    const isChosen = part.dataset.member === place;
    part.classList.toggle('chosen', isChosen);
    if (part.matches('button')) part.setAttribute('aria-pressed', String(isChosen));
  }
  const member = document.querySelector('.member.chosen');
  if (member && isAsked) member.closest('section').scrollIntoView({ block: 'nearest' });
}
function chosen(event) {
  const part = event.target.closest('[data-member]');
  if (!part || part.matches('.member') || event.target.closest('a')) return;
  choose(part.dataset.member, !part.matches('button'));
}
document.addEventListener('pointermove', (event) => {
  const mark = event.target.closest('[data-hint]');
  if (mark) show(mark, event.clientX, event.clientY);
  else box.hidden = true;
});
document.addEventListener('pointerleave', () => { box.hidden = true; });
document.addEventListener('scroll', () => { box.hidden = true; }, { passive: true });
document.addEventListener('focusin', (event) => {
  const mark = event.target.closest('[data-hint]');
  if (!mark) return;
  const place = mark.getBoundingClientRect();
  show(mark, place.right, place.bottom);
});
document.addEventListener('click', chosen);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && event.target.matches('.front')) chosen(event);
  if (event.key === 'Escape') box.hidden = true;
});
const first = document.querySelector('.member[data-first]');
if (first) choose(first.dataset.member, false);
"""


class Hints:
    """What is told of marks when they are pointed at; each text is kept once."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def __call__(self, words: str) -> str:
        """Attributes that make a mark tell it."""
        return f' data-hint="{self._places.setdefault(words, len(self._places))}"'

    def to_html(self) -> str:
        """All of them, as data that no browser runs."""
        data = json.dumps(list(self._places)).replace("<", "\\u003c")
        return f'<script type="application/json" id="hints">{data}</script>'


def report_page(title: str, body: str, hints: Hints) -> str:
    """The whole page; the browser runs no script but ours, told by its hash."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    scripts = f"{hints.to_html()}\n<script>{SCRIPT}</script>"
    head = security(f"'sha256-{digest}'")
    return document(title, f"{body}\n{scripts}", head=head, style=REPORT_STYLE)
