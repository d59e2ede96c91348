// Conditional GET requests: an unchanged response has no body.

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
    let response;
    try {
      response = await fetch(this.url, { headers, credentials: "same-origin", cache: "no-store" });
    } catch {
      throw new RequestError(0, "Airflow does not respond.");
    }
    if (response.status === 304) return null;
    if (!response.ok) {
      throw new RequestError(response.status, MESSAGES[response.status] ?? `Airflow responded with an error (${response.status}).`);
    }
    const value = await response.json();
    this.etag = response.headers.get("ETag");
    return { value, serverNow: Date.parse(response.headers.get("Date") ?? "") || Date.now() };
  }
}
