// Requests to the guarded routes. An unchanged response to a conditional one has no body.

export class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const MESSAGES = {
  401: "You are signed out. Sign in to Airflow, then load this page again.",
  403: "You may not see the renders of this Dag.",
  404: "There is no such Dag run.",
};

const NO_RIGHT = "You do not have the right to do this.";

const messageOf = (status) => MESSAGES[status] ?? `Airflow responded with an error (${status}).`;

async function send(url, options) {
  try {
    return await fetch(url, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError(0, "Airflow does not respond.");
  }
}

/** The value of a route whose errors say what is wrong: about the ledger, or of Airflow's API. */
export async function ledger(url, options = {}) {
  const response = await send(url, options);
  if (response.status === 204) return null;
  const value = await response.json().catch(() => null);
  if (response.ok) return value;
  if (response.status === 403 && options.method) throw new RequestError(403, NO_RIGHT);
  const detail = [401, 403].includes(response.status) ? null : value?.detail;
  throw new RequestError(response.status, typeof detail === "string" ? detail : messageOf(response.status));
}

/** Send a value to such a route. */
export function post(url, value, method = "POST") {
  return ledger(url, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) });
}

/** A resource that is polled. */
export class Resource {
  constructor(url) {
    this.url = url;
    this.etag = null;
  }

  /** The value and the server's time, or null if it has not changed. */
  async poll() {
    const headers = { Accept: "application/json" };
    if (this.etag !== null) headers["If-None-Match"] = this.etag;
    const response = await send(this.url, { headers });
    if (response.status === 304) return null;
    if (!response.ok) throw new RequestError(response.status, messageOf(response.status));
    const value = await response.json();
    this.etag = response.headers.get("ETag");
    return { value, serverNow: Date.parse(response.headers.get("Date") ?? "") || Date.now() };
  }
}
