// A line for each batch that goes on or has failed: its items by state, cost, estimated end and error.

import { element } from "./dom.js";
import { dateTime, number, parseTime, plural, spentText, timeSpan } from "./format.js";

const COUNTS = [
  ["succeeded", "done", "succeeded"],
  ["failed", "failed", "failed"],
  ["in_flight", "in flight", "running"],
  ["not_submitted", "waiting", "waiting"],
];

export function showBatches(list, batches, now) {
  list.hidden = batches.length === 0;
  list.replaceChildren(...batches.map((batch) => line(batch, now)));
}

function line(batch, now) {
  const { task_id: task, map_index: index, counts, ends_at: end, error } = batch;
  const spent = spentText(batch);
  const name = element("strong", "", index >= 0 ? `${task} [${index}]` : task);
  const states = COUNTS.filter(([key]) => counts[key] > 0).map(([key, word, state]) => {
    const mark = element("span", "tally", `${number(counts[key])} ${error && key === "not_submitted" ? "not submitted" : word}`);
    mark.dataset.state = state;
    return mark;
  });
  const at = parseTime(end);
  const parts = [
    name,
    element("span", "", `${plural(counts.total ?? 0, "render")}:`),
    ...states,
    spent ? element("span", "", spent) : null,
    at === null || error ? null : element("span", "run-when", at > now ? `ends in about ${timeSpan(at - now)}, ${dateTime(end)}` : "ends soon"),
  ];
  const message = error ? element("p", "error", error) : null;
  if (message) Object.assign(message, { tabIndex: 0, title: error }); // in focus, it is shown in full
  return element("li", "batch", element("div", "batch-line", ...parts), message);
}
