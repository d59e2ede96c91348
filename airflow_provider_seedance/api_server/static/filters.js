// Filters of the renders. They are part of the URL, so that it can be reloaded and shared.

export function readFilters() {
  const params = new URLSearchParams(location.hash.slice(1));
  return {
    text: params.get("q") ?? "",
    states: new Set((params.get("state") ?? "").split(",").filter(Boolean)),
    takes: params.has("takes"),
  };
}

export function saveFilters({ text, states, takes }) {
  const params = new URLSearchParams();
  if (text) params.set("q", text);
  if (states.size > 0) params.set("state", [...states].join(","));
  if (takes) params.set("takes", "");
  history.replaceState(null, "", params.size > 0 ? `#${params}` : location.pathname + location.search);
}

/** Return the renders that succeeded and whose prompt another one has as well, those of a prompt next to each other. */
export function takesOf(renders) {
  const byPrompt = new Map();
  for (const render of renders) {
    if (render.state !== "succeeded" || !render.prompt) continue;
    if (!byPrompt.has(render.prompt)) byPrompt.set(render.prompt, []);
    byPrompt.get(render.prompt).push(render);
  }
  return [...byPrompt.values()].filter((takes) => takes.length > 1).flat();
}

/** Return whether a card contains every word and has one of the selected states. */
export function matches(card, { text, states }) {
  if (states.size > 0 && !states.has(card.render.state)) return false;
  return text
    .toLowerCase()
    .split(/\s+/)
    .every((word) => card.searched.includes(word));
}
