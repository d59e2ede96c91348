// The library: a search over all renders in the ledger.

import { openRenderAgain } from "./again.js";
import { ledger, RequestError } from "./api.js";
import { Card } from "./cards.js";
import { $, element, setText } from "./dom.js";
import { plural } from "./format.js";
import { openSettling } from "./settling.js";
import { followTheme } from "./theme.js";

const TYPING_MS = 150;

let cards = [];
let next = null;
let timer = 0;
let request = new AbortController();

followTheme();
read();
find();

function read() {
  const params = new URLSearchParams(location.hash.slice(1));
  $("search").value = params.get("q") ?? "";
  $("uncertain").setAttribute("aria-pressed", String(params.has("uncertain")));
}

function isUncertain() {
  return $("uncertain").getAttribute("aria-pressed") === "true";
}

/** Find the renders of the search, or show `offset` and the following ones in addition. */
async function find(offset = 0) {
  clearTimeout(timer);
  request.abort();
  request = new AbortController();
  const { signal } = request;
  const text = $("search").value.trim();
  const query = new URLSearchParams({ text, offset, uncertain: isUncertain() });
  $("renders").setAttribute("aria-busy", String(offset === 0 && cards.length === 0));
  try {
    const found = await ledger(`api/library?${query}`, { signal });
    show(found, offset, text);
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof RequestError)) throw error;
    clear();
    blank("failure", "Nothing to show", error.message);
  }
  $("renders").setAttribute("aria-busy", "false");
  document.body.classList.add("ready");
}

function show(found, offset, text) {
  if (offset === 0) clear();
  const added = document.createDocumentFragment();
  for (const render of found.renders) {
    const card = new Card({ dag_id: render.dag_id, run_id: render.run_id }, render);
    card.node.tabIndex = 0;
    card.setCanEdit(render.can_edit);
    cards.push(card);
    added.append(card.node);
  }
  $("grid").append(added);
  next = found.next;
  $("more").hidden = next === null;
  setText($("shown"), cards.length === 0 ? "" : next === null ? plural(cards.length, "render") : `The latest ${plural(cards.length, "render")}`);
  if (cards.length > 0) blank("", null, "");
  else if (text || isUncertain()) blank("empty", "Nothing matches", isUncertain() ? "No submission is uncertain." : "No prompt has these words.");
  else blank("empty", "No renders yet", "Each submission of a Seedance or Seedream task is listed here.");
}

function clear() {
  for (const card of cards) card.remove();
  cards = [];
  $("more").hidden = true;
  setText($("shown"), "");
}

function blank(kind, title, text) {
  $("blank").hidden = title === null;
  $("blank").className = `blank ${kind}`;
  if (title !== null) $("blank").replaceChildren(element("span", "mark"), element("h2", "", title), element("p", "", text));
}

function changed() {
  const params = new URLSearchParams();
  if ($("search").value.trim()) params.set("q", $("search").value.trim());
  if (isUncertain()) params.set("uncertain", "");
  history.replaceState(null, "", params.size > 0 ? `#${params}` : location.pathname + location.search);
  clearTimeout(timer);
  timer = setTimeout(() => find(), TYPING_MS);
}

$("search").addEventListener("input", changed);
$("uncertain").addEventListener("click", () => {
  $("uncertain").setAttribute("aria-pressed", String(!isUncertain()));
  changed();
});
$("more").addEventListener("click", () => find(next));
$("grid").addEventListener("again", ({ detail }) => openRenderAgain(detail, detail, () => find()));
$("grid").addEventListener("settle", ({ detail }) => openSettling(detail, () => find()));
window.addEventListener("hashchange", () => {
  read();
  find();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input")) return;
  event.preventDefault();
  $("search").focus();
});
