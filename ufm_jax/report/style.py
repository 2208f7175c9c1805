"""The page's style sheet and its one small script."""

CSS = """
:root { --ink: #1d2733; --soft: #5d6976; --faint: #dfe4ea; --paper: #fff; --ground: #f5f7f9;
  --accent: #1f5f99; --context: #a9bccf; --band: #dbe6f0; --shade0: #3f7bb0; --shade1: #7aa6cc;
  --on0: #fff; --on1: #10283e; --idle: #edf0f3; --warn: #b8461f; color-scheme: light dark; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --soft: #9aa7b4;
  --faint: #333c46; --paper: #14191f; --ground: #1b2128; --accent: #6cb0ea; --context: #44566a;
  --band: #253444; --shade0: #2f6ea6; --shade1: #4f8fc4; --on1: #081420; --idle: #232a32;
  --warn: #f08a5d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px; }
header { border-bottom: 1px solid var(--faint); padding-bottom: 16px; }
h1 { font-size: 28px; line-height: 1.2; font-weight: 650; letter-spacing: -.01em; margin: 0;
  overflow-wrap: anywhere; }
header p { margin: 6px 0 0; color: var(--soft); }
h2 { font-size: 18px; font-weight: 650; margin: 48px 0 10px; }
p { margin: 0 0 14px; max-width: 76ch; }
.lead { font-size: 16px; }
.note, figcaption { color: var(--soft); font-size: 13px; max-width: none; }
figure { margin: 0; }
figcaption { margin-top: 6px; }
.figures { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 8px;
  margin: 26px 0 22px; }
.figures dt { color: var(--soft); font-size: 13px; }
.figures dd { margin: 0; font-size: 25px; font-weight: 600; letter-spacing: -.01em;
  font-variant-numeric: tabular-nums; line-height: 1.25; }
.chart { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .label { fill: var(--ink); }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
.grid { stroke: var(--faint); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; fill: none; }
.curve, .context, .spark { fill: none; stroke-linecap: round; stroke-linejoin: round; }
.curve { stroke: var(--accent); stroke-width: 2.4; }
.context { stroke: var(--context); stroke-width: 1; }
.spark { stroke: var(--accent); stroke-width: 1.4; }
.dot, .curve-dot, .spark-dot { fill: var(--accent); }
.context-dot { fill: var(--context); }
.band { fill: var(--band); }
.mark { fill: var(--warn); }
.hover rect { fill: transparent; }
.hover line { stroke: var(--soft); stroke-dasharray: 2 3; visibility: hidden; }
.hover circle { fill: var(--accent); stroke: var(--paper); stroke-width: 1.5; visibility: hidden; }
.hover:hover line, .hover:hover circle { visibility: visible; }
.narrow { display: none; }
.triple { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 28px;
  margin-top: 28px; }
h3 { font-size: 15px; font-weight: 600; margin: 22px 0 8px; }
small { color: var(--soft); font-size: 12.5px; font-weight: 400; letter-spacing: 0; }
.figures small { display: block; line-height: 1.3; }
.confusion table { width: auto; }
.examples { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 18px; }
.examples img + img { margin-top: 4px; }
.examples figcaption { overflow-wrap: anywhere; }
.idle { fill: var(--idle); }
rect.shade0 { fill: var(--shade0); } text.shade0 { fill: var(--on0); }
rect.shade1 { fill: var(--shade1); } text.shade1 { fill: var(--on1); }
rect.bad { fill: var(--warn); } text.bad { fill: var(--paper); }
svg text.bar { font-size: 11px; pointer-events: none; }
.tip:hover rect { opacity: .82; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px;
  vertical-align: bottom; border-bottom: 1px solid var(--soft); }
td { border-bottom: 1px solid var(--faint); }
th, td { padding: 5px 10px; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
.scroll + .note { margin-top: 8px; }
td:first-child { overflow-wrap: break-word; }
td:not(.number) { min-width: 9em; }
.number { text-align: right; white-space: nowrap; }
.sparkline { display: block; width: 110px; }
.warn { color: var(--warn); }
.strips { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 28px 36px; }
.strip figcaption { color: var(--ink); margin: 0 0 6px; overflow-wrap: anywhere; }
.panels { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 6px; }
.panels3 { grid-template-columns: repeat(3, minmax(0, 1fr)); }
.panels span { display: block; color: var(--soft); font-size: 12px; margin-top: 2px; }
img { display: block; width: 100%; height: auto; background: var(--idle); }
.ramp { display: inline-block; width: 96px; height: 8px; vertical-align: middle; margin: 0 4px; }
.strips + .note { margin-top: 18px; }
.montage { display: grid; grid-template-columns: repeat(8, minmax(0, 1fr)); gap: 14px 10px; }
.montage img { aspect-ratio: 1; object-fit: contain; }
.montage figcaption { font-size: 12px; margin-top: 3px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
details { margin-bottom: 10px; }
summary { cursor: pointer; margin-bottom: 6px; }
pre { background: var(--ground); padding: 14px 16px; font-size: 12.5px; line-height: 1.55;
  overflow-x: auto; margin: 0; }
code { font-size: 12.5px; overflow-wrap: anywhere; }
.versions { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 8px 24px;
  margin: 0; }
.versions dt { color: var(--soft); font-size: 13px; }
.versions dd { margin: 0; overflow-wrap: anywhere; }
#tooltip { position: fixed; z-index: 1; pointer-events: none; padding: 3px 8px; font-size: 13px;
  border-radius: 3px; background: var(--ink); color: var(--paper); max-width: 280px; }
@media screen and (max-width: 720px) {
  main { padding: 24px 16px 48px; }
  h1 { font-size: 23px; }
  h2 { margin-top: 36px; }
  .wide { display: none; } .narrow { display: block; }
  .figures { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 14px 8px; }
  .figures dd { font-size: 21px; }
  .examples { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .triple, .strips { grid-template-columns: minmax(0, 1fr); }
  .montage { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .versions { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  td:first-child { min-width: 8em; }
  th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
}
@media print {
  body { font-size: 11pt; }
  main { max-width: none; padding: 0; }
  figure, tr, .figures { break-inside: avoid; }
  h2 { break-after: avoid; }
  pre { white-space: pre-wrap; }
  .scroll { overflow: visible; }
}
"""

# Moves the titles into a tooltip that shows at once, and opens what is collapsed for printing.
SCRIPT = """
const tip = document.createElement("div");
tip.id = "tooltip"; tip.hidden = true; document.body.append(tip);
for (const group of document.querySelectorAll(".hover, .tip")) {
  const title = group.querySelector("title"), text = title.textContent;
  group.addEventListener("pointerenter", () => { title.textContent = ""; tip.textContent = text; });
  group.addEventListener("pointermove", (event) => {
    tip.hidden = false;
    const left = event.clientX + 14, room = innerWidth - tip.offsetWidth - 8;
    tip.style.left = Math.max(4, Math.min(left, room)) + "px";
    tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 10) + "px";
  });
  group.addEventListener("pointerleave", () => { title.textContent = text; tip.hidden = true; });
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
"""
