// The list of the latest runs with renders, for the entry in the navigation.

import { $, element, setText } from "./dom.js";
import { dateTime, elapsed, number, plural, spentText, tallies, timeSpan, wordOf } from "./format.js";

const PAGE_SIZE = 50;
const MAX_RUNS = 1000;
const TYPING_MS = 150;

/** The search of the list. It is part of the URL, so that it can be reloaded and shared. */
export class RunSearch {
  constructor(onChange) {
    this.limit = PAGE_SIZE;
    this.read();
    let timer = 0;
    const changed = () => {
      this.limit = PAGE_SIZE;
      this.save();
      clearTimeout(timer);
      timer = setTimeout(onChange, TYPING_MS);
    };
    for (const name of ["search", "since", "until"]) $(name).addEventListener("input", changed);
    $("more").addEventListener("click", () => {
      this.limit = Math.min(MAX_RUNS, this.limit + PAGE_SIZE);
      onChange();
    });
    window.addEventListener("hashchange", () => {
      this.read();
      onChange();
    });
    $("search").placeholder = "Dag or run";
    $("search").setAttribute("aria-label", "Find runs by words of their Dag id and run id");
    $("dates").hidden = $("toolbar").hidden = false;
  }

  get values() {
    return { q: $("search").value.trim(), from: $("since").value, to: $("until").value };
  }

  get active() {
    return Object.values(this.values).some(Boolean);
  }

  get url() {
    const { q, from, to } = this.values;
    const query = new URLSearchParams({ limit: this.limit, text: q });
    if (from) query.set("since", startOfDay(from, 0));
    if (to) query.set("until", startOfDay(to, 1));
    return `api/runs?${query}`;
  }

  read() {
    const params = new URLSearchParams(location.hash.slice(1));
    $("search").value = params.get("q") ?? "";
    $("since").value = params.get("from") ?? "";
    $("until").value = params.get("to") ?? "";
  }

  save() {
    const params = new URLSearchParams(Object.entries(this.values).filter(([, value]) => value));
    history.replaceState(null, "", params.size > 0 ? `#${params}` : location.pathname + location.search);
  }

  show({ runs, more, ledger }) {
    $("grid").className = "runs";
    $("grid").replaceChildren(...runs.map(row));
    $("more").hidden = !more || this.limit >= MAX_RUNS;
    const count = runs.length === 0 ? "" : more ? `The latest ${plural(runs.length, "run")}` : plural(runs.length, "run");
    const { q } = this.values;
    if (q && ledger) $("shown").replaceChildren(count, count ? " · " : "", libraryLink(q));
    else setText($("shown"), count);
  }
}

/** The moment at which a day begins where the viewer is, some days later. */
function startOfDay(day, later) {
  const start = new Date(`${day}T00:00`);
  start.setDate(start.getDate() + later);
  return start.toISOString();
}

function libraryLink(text) {
  const link = element("a", "link", "Search the prompts");
  link.href = `library#${new URLSearchParams({ q: text })}`;
  return link;
}

function row(run) {
  const link = element("a", "run", element("strong", "", run.dag_id), element("span", "run-id", run.run_id));
  link.href = `?dag_id=${encodeURIComponent(run.dag_id)}&run_id=${encodeURIComponent(run.run_id)}&from=runs`;
  const total = Object.values(run.tasks).reduce((sum, count) => sum + count, 0);
  const marks = [...tallies(run.tasks)].map(([name, count]) => {
    const mark = element("span", "tally", `${number(count)} ${name}`);
    mark.dataset.state = name;
    return mark;
  });
  const duration = elapsed({ started_at: run.started_at, ended_at: run.ended_at }, Date.now());
  const state = wordOf(run.state);
  const badge = element("span", "badge", state[0].toUpperCase() + state.slice(1));
  const spent = spentText(run);
  const item = element(
    "li",
    "run-card",
    element("div", "run-head", badge, link),
    element(
      "div",
      "run-foot",
      element("span", "", plural(total, "task")),
      ...marks,
      spent ? element("span", "spent", spent) : null,
      element("span", "run-when", [dateTime(run.started_at ?? run.run_after), duration === null ? "" : timeSpan(duration)].filter(Boolean).join(" · ")),
    ),
  );
  item.dataset.state = state;
  return item;
}
