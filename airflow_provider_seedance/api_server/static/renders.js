// The Renders page of a Dag run, updated while the run is active.

import { openRenderAgain } from "./again.js";
import { ledger, RequestError, Resource } from "./api.js";
import { showBatches } from "./batches.js";
import { Card, STATES } from "./cards.js";
import { Choice } from "./choice.js";
import { $, topLevelLink, element, setText } from "./dom.js";
import { matches, readFilters, saveFilters, takesOf } from "./filters.js";
import { money, number, plural, runUrl, runPage, timeSpan } from "./format.js";
import { RunSearch } from "./runs.js";
import { openSettling } from "./settling.js";
import { followTheme } from "./theme.js";

const ACTIVE_POLL_MS = 3000;
const IDLE_POLL_MS = 20000;

const param = parameters(location.search);
const run = param("dag_id") && param("run_id") ? { dag_id: param("dag_id"), run_id: param("run_id") } : null;

const cards = new Map();
const choice = run ? new Choice(run, showChoice) : null;
let filters = readFilters();
let shownPage = null;
let takeIds = new Set();
let clockOffset = 0;
let active = false;
let timer = 0;
let announced = "";
let rights = null;

const now = () => Date.now() + clockOffset;

/**
 * The parameters of the URL. Airflow 3.1 does not encode ids, later versions do: so a plus is a plus, and an ampersand
 * ends a value only before the name of another parameter. Airflow leaves placeholders that do not apply:
 * "{MAP_INDEX}" of a task that is not mapped.
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
const runSearch = run ? null : new RunSearch(refresh);
let resource = run ? new Resource(`${runUrl(run)}/renders${scope()}`) : null;
heading();
refresh();

function scope() {
  const query = new URLSearchParams();
  for (const name of ["task_id", "map_index"]) if (param(name)) query.set(name, param(name));
  return query.size > 0 ? `?${query}` : "";
}

function heading() {
  if (!run) {
    setText($("subtitle"), "The latest Dag runs with renders");
    return;
  }
  document.title = `Renders of ${run.dag_id}`;
  const parts = [topLevelLink(runPage(run), run.dag_id), element("span", "run-id", run.run_id)];
  if (param("task_id")) parts.push(element("span", "", param("task_id") + (param("map_index") ? ` [${param("map_index")}]` : "")));
  $("subtitle").replaceChildren(...parts);
  if (param("from") === "runs") {
    const back = element("a", "link back", "All runs");
    back.href = location.pathname;
    $("subtitle").prepend(back);
  }
}

// ---------------------------------------------------------------- polling

async function refresh() {
  clearTimeout(timer);
  if (runSearch && resource?.url !== runSearch.url) resource = new Resource(runSearch.url);
  const polled = resource;
  try {
    const answer = await polled.poll();
    if (polled !== resource) return; // of an earlier search
    notice(null);
    if (answer) {
      clockOffset = answer.serverNow - Date.now();
      active = answer.value.active;
      $("tabs").hidden = !answer.value.ledger;
      if (run) showPage(answer.value);
      else showList(answer.value);
    }
    if (run && (active || choice.key)) choice.refresh(cards.values()).catch(() => {});
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    if (polled !== resource) return;
    failed(error);
    if ([401, 403, 404].includes(error.status)) return;
  } finally {
    $("renders").setAttribute("aria-busy", "false");
    document.body.classList.add("ready");
  }
  live();
  if (!document.hidden) timer = setTimeout(refresh, active ? ACTIVE_POLL_MS : IDLE_POLL_MS);
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden) refresh();
});

setInterval(() => {
  if (document.hidden) return;
  for (const card of cards.values()) if (card.inProgress) card.tick(now());
}, 1000);

function live() {
  $("live").hidden = !run;
  $("live").classList.toggle("on", active);
  setText($("live-text"), active ? "Live" : "Ended");
}

function failed(error) {
  active = false;
  $("live").hidden = true;
  if ($("grid").childElementCount > 0) {
    notice(`${error.message} The page may be out of date.`);
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

function showList(list) {
  runSearch.show(list);
  if (list.runs.length > 0) blank("", null, "");
  else if (runSearch.active) blank("empty", "Nothing matches", "No run with renders has these words and dates.");
  else blank("empty", "No renders yet", "Runs of Dags with Seedance or Seedream tasks are listed here, as far as you may read them.");
}

function showPage(page) {
  const { totals, batches } = (shownPage = page);
  const takes = takesOf(page.renders);
  takeIds = new Set(takes.map(({ id }) => id));
  const renders = filters.takes ? [...takes, ...page.renders.filter(({ id }) => !takeIds.has(id))] : page.renders;
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
    // A card in its place is not moved: that would restart its video.
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
  showBatches($("batches"), batches, now());
  showTotals(totals);
  showStates(totals.states);
  filter();
  // Without it, the page shows all that Airflow knows.
  if ($("tabs").hidden) return;
  showRights().catch(() => {});
  if (totals.states.failed || totals.states.uncertain) showUncertain().catch(() => {});
}

/** Offer to settle the uncertain submissions of failed tasks. Items of a batch have a key each. */
async function showUncertain() {
  const { renders } = await ledger(`api/library?${new URLSearchParams({ ...run, uncertain: "true" })}`);
  const place = ({ task_id: task, map_index: index, iteration, key }) => JSON.stringify([task, index, iteration, key]);
  const unsettled = new Map(renders.filter((render) => render.can_settle).map((render) => [place(render), render]));
  for (const card of cards.values()) card.setUnsettled(unsettled.get(place(card.render)) ?? null);
}

/** Offer to render again, if the user may edit the tasks of the Dag. */
async function showRights() {
  rights ??= await ledger(`api/dags/${encodeURIComponent(run.dag_id)}/rights`);
  for (const card of cards.values()) card.setCanEdit(rights.edit);
}

function showChoice() {
  for (const card of cards.values()) card.setAnswer(choice.answerOf(card.render));
  filter();
}

$("grid").addEventListener("choose", ({ detail }) => choice.ask(detail));
$("grid").addEventListener("again", ({ detail }) => openRenderAgain(run, detail, refresh));
$("grid").addEventListener("settle", ({ detail }) => openSettling(detail, () => showUncertain().catch(() => {})));

function showTotals(totals) {
  $("totals").hidden = totals.total === 0;
  const done = totals.states.succeeded ?? 0;
  const unpriced = totals.unpriced > 0 ? `${totals.unpriced} without a price` : "";
  const rows = [
    [totals.total === 1 ? "Render" : "Renders", number(totals.total), ""],
    ["Succeeded", number(done), totals.total > 0 ? `${Math.round((100 * done) / totals.total)} %` : ""],
    ["Video", totals.seconds === null ? "–" : timeSpan(totals.seconds * 1000), ""],
    ["Credits", totals.credits === null ? "–" : number(totals.credits), spent(totals, "credits", number)],
    ["Cost", totals.cost_usd === null ? "–" : money(totals.cost_usd), [spent(totals, "cost_usd", money), unpriced].filter(Boolean).join(", ")],
    ["Stored", number(totals.stored), ""],
  ];
  $("totals").replaceChildren(
    ...rows.map(([name, value, note]) => element("div", "total", element("dt", "", name), element("dd", "", value, note ? element("small", "", note) : null))),
  );
  const counts = Object.entries(totals.states).map(([state, count]) => `${count} ${(STATES[state] ?? state).toLowerCase()}`);
  const text = `${plural(totals.total, "render")}: ${counts.join(", ")}`;
  if (text !== announced) setText($("announce"), (announced = text));
}

/** The amount spent in all, where it differs from that of the delivered renders, or may be more than is known. */
function spent(totals, unit, format) {
  const { [unit]: all, at_least: atLeast } = totals.spent;
  if (all === null || (all === totals[unit] && !atLeast)) return "";
  return `delivered; ${atLeast ? "at least " : ""}${format(all)} spent`;
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
    saveFilters(filters);
    filter();
  });
  return button;
}

function filter() {
  let shown = 0;
  const comparing = filters.takes && takeIds.size > 0;
  $("grid").classList.toggle("takes", comparing);
  $("takes").hidden = takeIds.size === 0;
  $("takes").setAttribute("aria-pressed", String(comparing));
  for (const card of cards.values()) {
    const visible = matches(card, filters) && !choice.hides(card.render) && (!comparing || takeIds.has(card.render.id));
    if (card.node.hidden === visible) card.node.hidden = !visible;
    shown += visible;
  }
  $("toolbar").hidden = cards.size === 0;
  const filtered = filters.text || filters.states.size > 0 || comparing;
  setText($("shown"), filtered ? `${number(shown)} of ${plural(cards.size, "render")}` : "");
  if (cards.size === 0) blank("empty", "No renders in this run", active ? "They appear here as soon as a Seedance or Seedream task starts." : "No task of this run has generated anything.");
  else if (shown === 0) blank("empty", "Nothing matches", "No render has this text and these states.");
  else blank("", null, "");
  setTabStop(document.activeElement?.closest(".card") ?? null);
}

// ---------------------------------------------------------------- keyboard

if (run) followFilters();

function followFilters() {
  $("search").value = filters.text;
  $("search").addEventListener("input", () => {
    filters.text = $("search").value.trim();
    saveFilters(filters);
    filter();
  });
  $("takes").addEventListener("click", () => {
    filters.takes = !filters.takes;
    saveFilters(filters);
    showPage(shownPage);
  });
  window.addEventListener("hashchange", () => {
    filters = readFilters();
    $("search").value = filters.text;
    for (const button of $("states").children) button.setAttribute("aria-pressed", String(filters.states.has(button.value)));
    if (shownPage) showPage(shownPage);
  });
}

/** Tab reaches one card, and the arrow keys the others (a roving tabindex). */
function setTabStop(card) {
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

$("grid").addEventListener("focusin", (event) => setTabStop(event.target.closest(".card")));

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
