// The list of the latest runs with renders, for the entry in the navigation.

import { element } from "./dom.js";
import { dateTime, elapsed, plural, timeSpan } from "./format.js";

const WORDS = { success: "succeeded", failed: "failed", deferred: "running", running: "running", queued: "queued", up_for_retry: "retrying" };

export function showRuns(grid, runs) {
  grid.className = "runs";
  grid.replaceChildren(...runs.map(row));
}

function row(run) {
  const link = element("a", "run", element("strong", "", run.dag_id), element("span", "run-id", run.run_id));
  link.href = `?dag_id=${encodeURIComponent(run.dag_id)}&run_id=${encodeURIComponent(run.run_id)}&from=runs`;
  const total = Object.values(run.tasks).reduce((sum, count) => sum + count, 0);
  const tallies = Object.entries(run.tasks).map(([state, count]) => {
    const name = WORDS[state] ?? "waiting";
    const mark = element("span", "tally", `${count} ${name}`);
    mark.dataset.state = name;
    return mark;
  });
  const duration = elapsed({ started_at: run.started_at, ended_at: run.ended_at }, Date.now());
  const badge = element("span", "badge", run.state ?? "unknown");
  const item = element(
    "li",
    "run-card",
    element("div", "run-head", badge, link),
    element("div", "run-foot", element("span", "", plural(total, "task")), ...tallies, element("span", "run-when", [dateTime(run.started_at ?? run.run_after), duration === null ? "" : timeSpan(duration)].filter(Boolean).join(" · "))),
  );
  item.dataset.state = { success: "succeeded" }[run.state] ?? run.state ?? "waiting";
  return item;
}
