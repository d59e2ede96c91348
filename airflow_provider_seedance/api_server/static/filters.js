// Which renders are shown. The choice is kept in the address, so that it can be reloaded and shared.

export function readFilters() {
  const told = new URLSearchParams(location.hash.slice(1));
  return { text: told.get("q") ?? "", states: new Set((told.get("state") ?? "").split(",").filter(Boolean)) };
}

export function keepFilters({ text, states }) {
  const told = new URLSearchParams();
  if (text) told.set("q", text);
  if (states.size > 0) told.set("state", [...states].join(","));
  history.replaceState(null, "", told.size > 0 ? `#${told}` : location.pathname + location.search);
}

/** Whether a card is shown: every word occurs in it, and its state is one of the chosen ones. */
export function matches(card, { text, states }) {
  if (states.size > 0 && !states.has(card.render.state)) return false;
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => card.searched.includes(word));
}
