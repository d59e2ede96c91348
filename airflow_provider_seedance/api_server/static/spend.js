// The Spend page: a chart of what was spent, its table, and the budgets.

import { ledger, RequestError } from "./api.js";
import { drawChart } from "./chart.js";
import { $, element, setText } from "./dom.js";
import { dateTime, money, number, plural } from "./format.js";
import { followTheme } from "./theme.js";

const CHOICES = {
  period: { "30d": "30 days", month: "This month", last_month: "Last month", "12m": "12 months" },
  by: { dag_id: "By Dag", model: "By model" },
  unit: { cost_usd: "US dollars", credits: "Credits" },
};

/** Groups with a colour of their own; the others share one. */
const MAX_GROUPS = 7;

let answer = null;

followTheme();
for (const [name, values] of Object.entries(CHOICES)) $(name).replaceChildren(...Object.entries(values).map(([value, text]) => chip(name, value, text)));
load();

function chosen(name) {
  const value = new URLSearchParams(location.hash.slice(1)).get(name);
  if (value in CHOICES[name]) return value;
  // Some services have a price in credits only.
  if (name === "unit" && answer && !answer.rows.some((row) => row.cost_usd || row.reserved_cost_usd)) return answer.rows.some((row) => row.credits || row.reserved_credits) ? "credits" : "cost_usd";
  return Object.keys(CHOICES[name])[0];
}

function chip(name, value, text) {
  const button = element("button", "chip", text);
  button.type = "button";
  button.value = value;
  button.addEventListener("click", () => {
    const params = new URLSearchParams(location.hash.slice(1));
    params.set(name, value);
    location.hash = params;
  });
  return button;
}

window.addEventListener("hashchange", load);

// The chart is drawn for its width: scaled, its labels would be too small on a phone that is turned.
let drawnWidth = 0;
new ResizeObserver(() => answer && $("spend").clientWidth !== drawnWidth && show()).observe($("spend"));

async function load() {
  const query = new URLSearchParams({ period: chosen("period"), by: chosen("by") });
  try {
    if (answer?.query !== `${query}`) answer = { ...(await ledger(`api/spend?${query}`)), query: `${query}` };
    show();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    answer = null;
    blank("failure", "Nothing to show", error.message);
    for (const id of ["chart", "groups", "budgets", "totals"]) $(id).hidden = true;
  }
  for (const name of Object.keys(CHOICES)) for (const button of $(name).children) button.setAttribute("aria-pressed", String(button.value === chosen(name)));
  $("spend").setAttribute("aria-busy", "false");
  document.body.classList.add("ready");
}

function blank(kind, title, text) {
  $("blank").hidden = title === null;
  $("blank").className = `blank ${kind}`;
  if (title !== null) $("blank").replaceChildren(element("span", "mark"), element("h2", "", title), element("p", "", text));
}

function show() {
  const unit = chosen("unit");
  const text = (value) => (unit === "cost_usd" ? money(value) : plural(value, "credit"));
  setText($("subtitle"), `${day(answer.from)} to ${day(answer.to)}, ${answer.timezone}`);
  const groups = sums(unit);
  const total = groups.reduce((sum, group) => ({ spent: sum.spent + group.spent, reserved: sum.reserved + group.reserved, renders: sum.renders + group.renders }), { spent: 0, reserved: 0, renders: 0 });
  const rows = [
    ["Spent", text(total.spent)],
    ["Reserved", text(total.reserved)],
    [total.renders === 1 ? "Render" : "Renders", number(total.renders)],
  ];
  $("totals").hidden = false;
  $("totals").replaceChildren(...rows.map(([name, value]) => element("div", "total", element("dt", "", name), element("dd", "", value))));
  const isEmpty = groups.length === 0;
  if (isEmpty) blank("empty", "Nothing was spent", "No render of the Dags that you may read was submitted in this period.");
  else blank("", null, "");
  $("chart").hidden = $("groups").hidden = isEmpty;
  drawnWidth = $("spend").clientWidth;
  if (!isEmpty) {
    const opened = $("chart").querySelector("details")?.open ?? false;
    drawChart($("chart"), { from: answer.from, to: answer.to, groups, text, unit });
    $("chart").querySelector("details").open = opened;
    showGroups(groups, total, text);
  }
  showBudgets();
}

/** The sums of each group with its days, the most expensive first; a rank is a colour. */
function sums(unit) {
  const found = new Map();
  for (const row of answer.rows) {
    const group = found.get(row.group) ?? { name: row.group ?? "unknown", spent: 0, reserved: 0, renders: 0, days: new Map() };
    found.set(row.group, group);
    group.spent += row[unit];
    group.reserved += row[`reserved_${unit}`];
    group.renders += row.generations;
    group.days.set(row.day, (group.days.get(row.day) ?? 0) + row[unit] + row[`reserved_${unit}`]);
  }
  const sorted = [...found.values()].sort((one, other) => other.spent + other.reserved - one.spent - one.reserved || one.name.localeCompare(other.name));
  return sorted.map((group, index) => ({ ...group, rank: Math.min(index, MAX_GROUPS) }));
}

function showGroups(groups, total, text) {
  const share = (group) => (group.spent + group.reserved) / (total.spent + total.reserved || 1);
  const head = [$("by").querySelector(`[value=${chosen("by")}]`).textContent.replace("By ", ""), "Spent", "Reserved", "Renders", "Share"];
  const body = groups.map((group) => {
    const bar = element("span", "share");
    bar.style.width = `${Math.max(1, Math.round(100 * share(group)))}%`;
    const swatch = element("i", "swatch");
    swatch.dataset.rank = bar.dataset.rank = String(group.rank);
    const cells = [text(group.spent), text(group.reserved), number(group.renders)].map((value) => element("td", "amount", value));
    const name = element("th", "", swatch, group.name);
    name.scope = "row";
    return element("tr", "", name, ...cells, element("td", "share-cell", bar, element("span", "", `${Math.round(100 * share(group))} %`)));
  });
  const heads = head.map((name) => Object.assign(element("th", "", name), { scope: "col" }));
  const table = element("table", "", element("thead", "", element("tr", "", ...heads)), element("tbody", "", ...body));
  $("groups").replaceChildren(table);
}

function showBudgets() {
  $("budgets").hidden = answer.budgets.length === 0;
  const title = element("h2", "", "Budgets");
  title.id = "budgets-title";
  $("budgets").replaceChildren(title, element("ul", "budgets", ...answer.budgets.map(budget)));
}

function budget({ conn_id: connection, name, unit, limit, spent, reserved, left, renews_at: renews }) {
  const text = (value) => (unit === "cost_usd" ? money(value) : plural(value, "credit"));
  const parts = [spent, reserved].map((value, index) => {
    const part = element("i", index ? "reserved" : "spent");
    part.style.width = `${Math.min(100, (100 * value) / limit)}%`;
    return part;
  });
  const bar = element("div", "gauge", ...parts);
  const used = Math.round((100 * (spent + reserved)) / limit);
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-label", `${name} of ${connection}`);
  for (const [attribute, value] of Object.entries({ valuemin: 0, valuemax: 100, valuenow: Math.min(100, used), valuetext: `${used} % used` })) bar.setAttribute(`aria-${attribute}`, value);
  const item = element(
    "li",
    "budget",
    element("div", "budget-head", element("strong", "", name), element("span", "", connection), element("span", "left", `${text(left)} left`)),
    bar,
    element("p", "", `${text(spent)} spent, ${text(reserved)} reserved. ${renews ? `It renews on ${dateTime(renews)}.` : "It does not renew."}`),
  );
  item.dataset.level = used >= 100 ? "over" : used >= 80 ? "high" : "";
  return item;
}

function day(text) {
  return new Date(`${text}T00:00:00Z`).toLocaleDateString(undefined, { dateStyle: "medium", timeZone: "UTC" });
}
