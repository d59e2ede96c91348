// Formats of numbers, times and URLs. No function here touches the document.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const cents = new Intl.NumberFormat("en", { style: "currency", currency: "USD" });
const dollars = new Intl.NumberFormat("en", { style: "currency", currency: "USD", maximumFractionDigits: 4 });

export function number(value) {
  return whole.format(value);
}

/** Dollars: below one, with the parts of a cent that a short clip costs. */
export function money(value) {
  return (Math.abs(value) < 1 ? dollars : cents).format(value);
}

/** Credits and dollars that were spent, or null; "at least" where earlier tries may have paid as well, which Airflow does not keep. */
export function spentText({ credits, cost_usd: cost, at_least: atLeast }) {
  const amounts = [typeof credits === "number" ? plural(credits, "credit") : null, typeof cost === "number" ? money(cost) : null].filter(Boolean);
  return amounts.length > 0 ? `spent ${atLeast ? "at least " : ""}${amounts.join(" / ")}` : null;
}

export function plural(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

const WORDS = { success: "succeeded", upstream_failed: "not submitted", skipped: "not submitted", failed: "failed", deferred: "running", running: "running", queued: "queued", up_for_retry: "retrying" };

/** The word for a state of a task or a run. */
export function wordOf(state) {
  return WORDS[state] ?? "waiting";
}

/** The number of tasks for each word, of their number for each state. */
export function tallies(tasks) {
  const found = new Map();
  for (const [state, count] of Object.entries(tasks)) found.set(wordOf(state), (found.get(wordOf(state)) ?? 0) + count);
  return found;
}

/** Milliseconds as "48 s", "3 min 05 s" or "2 h 10 min". */
export function timeSpan(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(seconds % 60).padStart(2, "0")} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor(seconds / 60) % 60).padStart(2, "0")} min`;
}

/** The milliseconds since 1970 of a time as the server writes it, or null. */
export function parseTime(text) {
  const found = typeof text === "string" ? Date.parse(text) : NaN;
  return Number.isNaN(found) ? null : found;
}

export function dateTime(text) {
  const at = parseTime(text);
  return at === null ? "" : new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** The elapsed time of a render in milliseconds, or null. */
export function elapsed(render, now) {
  const start = parseTime(render.started_at);
  if (start === null) return null;
  const end = parseTime(render.ended_at);
  return end === null ? now - start : end - start;
}

/** An HTTP URL, or null: nothing else becomes a link or a source. */
export function httpUrl(text) {
  if (typeof text !== "string") return null;
  try {
    const url = new URL(text);
    return url.protocol === "https:" || url.protocol === "http:" ? url.href : null;
  } catch {
    return null;
  }
}

const segment = encodeURIComponent;

/** The media route of a stored file. */
export function fileUrl(run, file) {
  const query = new URLSearchParams({ task_id: file.task_id, map_index: file.map_index, region: file.region, index: file.index });
  return `${runUrl(run)}/media?${query}`;
}

export function runUrl(run) {
  return `api/dags/${segment(run.dag_id)}/runs/${segment(run.run_id)}`;
}

/** The page of a task instance in Airflow, or a tab of it, relative to Airflow's base URL. */
export function taskPage(run, { task_id: task, map_index: index, region }, tab = "") {
  const [id, inRegion] = (region ?? "").split(".");
  const region_id = id.replace(/^(\w{8})(\w{4})(\w{4})(\w{4})/, "$1-$2-$3-$4-"); // as Airflow's pages write it
  const place = id ? `?${new URLSearchParams({ region_id, region_index: inRegion })}` : "";
  return `${runPage(run)}/tasks/${segment(task)}${index >= 0 ? `/mapped/${index}` : ""}${tab}${place}`;
}

export function runPage(run) {
  return `../dags/${encodeURIComponent(run.dag_id)}/runs/${encodeURIComponent(run.run_id)}`;
}

/** Whether a URL is that of an image, such as the last frame of a video. */
function isImage(url) {
  return /\.(?:jpe?g|png|webp)$/i.test(new URL(url).pathname);
}

/** The sources of a render: its stored files, or else the URLs of the service until they expire. */
export function sources(run, render, now) {
  const stored = render.files.map((file) => ({ url: file.url ?? fileUrl(run, file), media: file.media, stored: true, name: file.name }));
  if (stored.length > 0) return stored;
  const expiry = parseTime(render.expires_at);
  if (expiry !== null && expiry <= now) return [];
  return render.urls
    .map(httpUrl)
    .filter((url) => url !== null)
    .map((url) => ({ url, media: render.media === "image" || isImage(url) ? "image" : "video", stored: false, name: "" }));
}
