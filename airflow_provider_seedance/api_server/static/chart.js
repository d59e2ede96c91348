// A stacked bar chart by day or month, as SVG, with its table for people who cannot see it.

import { element } from "./dom.js";
import { money, number } from "./format.js";

const HEIGHT = 240;
const MARGIN = { left: 64, right: 8, top: 10, bottom: 26 };

/** More days than this are shown as months. */
const MAX_DAYS = 62;

/** Draw groups with their amounts by day; `text` formats an amount. */
export function drawChart(container, { from, to, groups, text, unit }) {
  const periods = periodsOf(from, to);
  const stacks = periods.map((period) => ({
    ...period,
    parts: merged(groups, period),
  }));
  const most = Math.max(...stacks.map((stack) => stack.parts.reduce((sum, part) => sum + part.value, 0)));
  const step = stepOf(most);
  const top = Math.max(step, Math.ceil(most / step) * step);
  const width = Math.max(300, container.clientWidth - 32 || 900);
  const svg = node("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `Spend by ${periods.some(({ month }) => month) ? "month" : "day"}; the table below has the numbers.` });
  const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
  const y = (value) => MARGIN.top + inner.height * (1 - value / top);
  for (let value = 0; value <= top + step / 2; value += step) {
    svg.append(node("line", { class: "rule", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value) }));
    const label = unit === "cost_usd" ? money(value).replace(/\.00$/, "") : number(value);
    svg.append(node("text", { class: "tick", x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, label));
  }
  const slot = inner.width / stacks.length;
  const every = Math.ceil(stacks.length / Math.max(1, Math.floor(inner.width / 64)));
  stacks.forEach((stack, index) => {
    const x = MARGIN.left + index * slot;
    const bars = node("g", { class: "stack" });
    let sum = 0;
    for (const { rank, value } of stack.parts) {
      bars.append(node("rect", { "data-rank": rank, x: x + slot * 0.12, width: slot * 0.76, y: y(sum + value), height: y(sum) - y(sum + value) }));
      sum += value;
    }
    bars.append(node("rect", { class: "hit", x, width: slot, y: MARGIN.top, height: inner.height }));
    const lines = stack.parts.map((part) => `${part.name}: ${text(part.value)}`).reverse();
    bars.append(node("title", {}, [`${stack.label}: ${text(sum)}`, ...lines].join("\n")));
    svg.append(bars);
    if (index % every === 0) svg.append(node("text", { class: "tick", x: x + slot / 2, y: HEIGHT - 8, "text-anchor": "middle" }, stack.label));
  });
  container.replaceChildren(legend(groups), svg, dayTable(stacks, text));
}

/** The days from the first to the last one, or their months. */
function periodsOf(from, to) {
  const days = [];
  for (let at = Date.parse(`${from}T00:00:00Z`); at <= Date.parse(`${to}T00:00:00Z`); at += 86400000) days.push(new Date(at).toISOString().slice(0, 10));
  const label = (day, options) => new Date(`${day}T00:00:00Z`).toLocaleDateString(undefined, { timeZone: "UTC", ...options });
  if (days.length <= MAX_DAYS) return days.map((day) => ({ days: [day], month: false, label: label(day, { month: "short", day: "numeric" }) }));
  const months = Map.groupBy(days, (day) => day.slice(0, 7));
  return [...months.values()].map((days) => ({ days, month: true, label: label(days[0], { month: "short", year: "2-digit" }) }));
}

/** The amounts of a period by colour, the most expensive group at the bottom. */
function merged(groups, { days }) {
  const found = new Map();
  for (const { name, rank, days: amounts } of groups) {
    const value = days.reduce((sum, day) => sum + (amounts.get(day) ?? 0), 0);
    if (value === 0) continue;
    const part = found.get(rank);
    found.set(rank, part ? { ...part, name: "Others", value: part.value + value } : { rank, name, value });
  }
  return [...found.values()];
}

/** The distance of the horizontal lines: 1, 2 or 5 times a power of ten, for about four of them. */
function stepOf(most) {
  const rough = (most || 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
}

function legend(groups) {
  const names = new Map();
  for (const { name, rank } of groups) names.set(rank, names.has(rank) ? "Others" : name);
  return element(
    "ul",
    "legend",
    ...[...names].map(([rank, name]) => {
      const swatch = element("i", "swatch");
      swatch.dataset.rank = String(rank);
      return element("li", "", swatch, name);
    }),
  );
}

function dayTable(stacks, text) {
  const rows = stacks.flatMap(({ label, parts }) => parts.map((part) => element("tr", "", element("td", "", label), element("td", "", part.name), element("td", "amount", text(part.value)))));
  return element("details", "", element("summary", "", stacks[0].month ? "Table of the months" : "Table of the days"), element("table", "", element("tbody", "", ...rows)));
}

function node(tag, attributes, text = null) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  if (text !== null) made.textContent = text;
  return made;
}
