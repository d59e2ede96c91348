// Asking the server: an answer that has not changed costs next to nothing.

export class Failure extends Error {
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

/** A source of answers from one address. */
export class Source {
  constructor(address) {
    this.address = address;
    this.etag = null;
  }

  /** The answer and the server's time, or null if the answer is the one before. */
  async ask() {
    const headers = { Accept: "application/json" };
    if (this.etag !== null) headers["If-None-Match"] = this.etag;
    let response;
    try {
      response = await fetch(this.address, { headers, credentials: "same-origin", cache: "no-store" });
    } catch {
      throw new Failure(0, "Airflow does not answer.");
    }
    if (response.status === 304) return null;
    if (!response.ok) {
      throw new Failure(response.status, MESSAGES[response.status] ?? `Airflow answers with an error (${response.status}).`);
    }
    const value = await response.json();
    this.etag = response.headers.get("ETag");
    return { value, serverNow: Date.parse(response.headers.get("Date") ?? "") || Date.now() };
  }
}
