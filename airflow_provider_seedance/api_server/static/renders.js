// The Renders page: what a Dag run has rendered, kept up to date while it goes on.

import { Failure, Source } from "./api.js";
import { Card, STATES } from "./cards.js";
import { $, leavingLink, element, setText } from "./dom.js";
import { keepFilters, matches, readFilters } from "./filters.js";
import { money, number, plural, runAddress, runPage, span } from "./format.js";
import { showRuns } from "./runs.js";
import { followTheme } from "./theme.js";

const LIVE = 3000;
const RESTING = 20000;

const given = parameters(location.search);
const run = given("dag_id") && given("run_id") ? { dag_id: given("dag_id"), run_id: given("run_id") } : null;

const cards = new Map();
let filters = readFilters();
let drift = 0;
let active = false;
let timer = 0;
let announced = "";

const now = () => Date.now() + drift;

/**
 * The parameters of the address. Airflow 3.1 writes ids into it as they are, later ones encode them: so a plus is a plus,
 * and an ampersand ends a value only before the name of another one. What does not apply is left as it is by
 * Airflow: "{MAP_INDEX}" of a task that is not mapped.
 */
function parameters(search) {
  const parts = search.split(/[?&](dag_id|run_id|task_id|map_index|from)=/);
  const found = new Map();
  for (let at = 1; at < parts.length; at += 2) {
    let value = parts[at + 1];
    try {
      value = decodeURIComponent(value);
    } catch {
      // Not encoded.
    }
    if (value && !/^\{[A-Z_]+\}$/.test(value)) found.set(parts[at], value);
  }
  return (name) => found.get(name) ?? null;
}

followTheme();
const source = new Source(run ? `${runAddress(run)}/renders${scope()}` : "api/runs");
heading();
refresh();

function scope() {
  const query = new URLSearchParams();
  for (const name of ["task_id", "map_index"]) if (given(name)) query.set(name, given(name));
  return query.size > 0 ? `?${query}` : "";
}

function heading() {
  if (!run) {
    setText($("subtitle"), "The latest Dag runs with generations");
    return;
  }
  document.title = `Renders of ${run.dag_id}`;
  const parts = [leavingLink(runPage(run), run.dag_id), element("span", "run-id", run.run_id)];
  if (given("task_id")) parts.push(element("span", "", given("task_id") + (given("map_index") ? ` [${given("map_index")}]` : "")));
  $("subtitle").replaceChildren(...parts);
  if (given("from") === "runs") {
    const back = element("a", "link back", "All runs");
    back.href = location.pathname;
    $("subtitle").prepend(back);
  }
}

// ---------------------------------------------------------------- asking

async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await source.ask();
    notice(null);
    if (answer) {
      drift = answer.serverNow - Date.now();
      active = answer.value.active;
      if (run) showPage(answer.value);
      else showList(answer.value.runs);
    }
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    failed(error);
    if ([401, 403, 404].includes(error.status)) return;
  } finally {
    $("renders").setAttribute("aria-busy", "false");
    document.body.classList.add("ready");
  }
  live();
  if (!document.hidden) timer = setTimeout(refresh, active ? LIVE : RESTING);
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden) refresh();
});

setInterval(() => {
  if (document.hidden) return;
  for (const card of cards.values()) if (card.goesOn) card.tick(now());
}, 1000);

function live() {
  $("live").hidden = !run;
  $("live").classList.toggle("on", active);
  setText($("live-text"), active ? "Live" : "Ended");
}

function failed(error) {
  active = false;
  $("live").hidden = true;
  if (cards.size > 0) {
    notice(`${error.message} What you see may be out of date.`);
    active = ![401, 403, 404].includes(error.status);
    return;
  }
  blank("failure", "Nothing to show", error.message);
}

function notice(text) {
  $("notice").hidden = text === null;
  setText($("notice"), text ?? "");
}

function blank(kind, title, text) {
  $("blank").hidden = title === null;
  $("blank").className = `blank ${kind}`;
  if (title !== null) $("blank").replaceChildren(element("span", "mark"), element("h2", "", title), element("p", "", text));
}

// ---------------------------------------------------------------- showing

function showList(runs) {
  showRuns($("grid"), runs);
  if (runs.length > 0) blank("", null, "");
  else blank("empty", "No renders yet", "Runs of Dags with Seedance or Seedream tasks are listed here, as far as you may read them.");
}

function showPage({ renders, totals }) {
  const present = new Set();
  let previous = null;
  const added = document.createDocumentFragment();
  const first = cards.size === 0;
  for (const render of renders) {
    present.add(render.id);
    let card = cards.get(render.id);
    if (card) card.update(render, now());
    else {
      card = new Card(run, render);
      card.tick(now());
      cards.set(render.id, card);
      if (first) added.append(card.node);
    }
    // What is in its place stays there: a video that is moved begins anew.
    if (!first && card.node !== (previous ? previous.nextElementSibling : $("grid").firstElementChild)) {
      if (previous) previous.after(card.node);
      else $("grid").prepend(card.node);
    }
    previous = card.node;
  }
  if (first) $("grid").append(added);
  for (const [id, card] of cards) {
    if (present.has(id)) continue;
    card.remove();
    cards.delete(id);
  }
  showTotals(totals);
  showStates(totals.states);
  filter();
}

function showTotals(totals) {
  $("totals").hidden = totals.total === 0;
  const done = totals.states.succeeded ?? 0;
  const unpriced = totals.unpriced > 0 ? `${totals.unpriced} without a price` : "";
  const rows = [
    ["Renders", number(totals.total), ""],
    ["Succeeded", number(done), totals.total > 0 ? `${Math.round((100 * done) / totals.total)} %` : ""],
    ["Video", totals.seconds === null ? "–" : span(totals.seconds * 1000), ""],
    ["Credits", totals.credits === null ? "–" : number(totals.credits), ""],
    ["Cost", totals.cost_usd === null ? "–" : money(totals.cost_usd), unpriced],
    ["Stored", number(totals.stored), ""],
  ];
  $("totals").replaceChildren(
    ...rows.map(([name, value, note]) => element("div", "total", element("dt", "", name), element("dd", "", value, note ? element("small", "", note) : null))),
  );
  const told = Object.entries(totals.states).map(([state, count]) => `${count} ${(STATES[state] ?? state).toLowerCase()}`);
  const text = `${plural(totals.total, "render")}: ${told.join(", ")}`;
  if (text !== announced) setText($("announce"), (announced = text));
}

function showStates(states) {
  const names = [...new Set([...Object.keys(states), ...filters.states])].filter((state) => state in STATES);
  const bar = $("states");
  const order = names.join();
  if (bar.dataset.order !== order) {
    bar.dataset.order = order;
    bar.replaceChildren(...names.map(chip));
  }
  for (const button of bar.children) {
    button.setAttribute("aria-pressed", String(filters.states.has(button.value)));
    setText(button.lastChild, String(states[button.value] ?? 0));
  }
}

function chip(state) {
  const button = element("button", "chip", element("i", "swatch"), STATES[state], element("b", "", ""));
  button.type = "button";
  button.value = state;
  button.dataset.state = state;
  button.addEventListener("click", () => {
    if (!filters.states.delete(state)) filters.states.add(state);
    button.setAttribute("aria-pressed", String(filters.states.has(state)));
    keepFilters(filters);
    filter();
  });
  return button;
}

function filter() {
  let shown = 0;
  for (const card of cards.values()) {
    const fits = matches(card, filters);
    if (card.node.hidden === fits) card.node.hidden = !fits;
    shown += fits;
  }
  $("toolbar").hidden = cards.size === 0;
  const narrowed = filters.text || filters.states.size > 0;
  setText($("shown"), narrowed ? `${number(shown)} of ${plural(cards.size, "render")}` : "");
  if (cards.size === 0) blank("empty", "No renders in this run", active ? "They appear here as soon as a Seedance or Seedream task starts." : "No task of this run has generated anything.");
  else if (shown === 0) blank("empty", "Nothing matches", "No render fits the text and the states that are chosen.");
  else blank("", null, "");
  rove(document.activeElement?.closest(".card") ?? null);
}

// ---------------------------------------------------------------- keyboard

$("search").value = filters.text;
$("search").addEventListener("input", () => {
  filters.text = $("search").value.trim();
  keepFilters(filters);
  filter();
});

window.addEventListener("hashchange", () => {
  filters = readFilters();
  $("search").value = filters.text;
  for (const button of $("states").children) button.setAttribute("aria-pressed", String(filters.states.has(button.value)));
  filter();
});

/** One card can be reached with Tab, the others from there with the arrow keys. */
function rove(card) {
  const chosen = card && !card.hidden ? card : $("grid").querySelector(".card:not([hidden])");
  for (const other of $("grid").querySelectorAll('.card[tabindex="0"]')) if (other !== chosen) other.tabIndex = -1;
  if (chosen) chosen.tabIndex = 0;
}

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input")) {
    event.preventDefault();
    $("search").focus();
  }
  if (event.key === "Escape" && event.target === $("search")) $("grid").querySelector('.card[tabindex="0"]')?.focus();
});

$("grid").addEventListener("focusin", (event) => rove(event.target.closest(".card")));

$("grid").addEventListener("keydown", (event) => {
  const card = event.target;
  if (!card.classList.contains("card")) return;
  const all = [...$("grid").querySelectorAll(".card:not([hidden])")];
  const at = all.indexOf(card);
  const columns = Math.max(1, all.findIndex((other, index) => index > 0 && other.offsetTop > all[0].offsetTop));
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: all.length - 1 }[event.key];
  if (event.key === " " || event.key === "Enter") {
    const video = card.querySelector("video");
    if (!video) return;
    event.preventDefault();
    if (video.paused) video.play().catch(() => {});
    else {
      video.dataset.stopped = "yes";
      video.pause();
    }
  } else if (to !== undefined) {
    event.preventDefault();
    all[Math.min(all.length - 1, Math.max(0, to))].focus();
  }
});
