// A card for each render, made once and updated when its render changes.

import { canRenderAgain } from "./again.js";
import { taskName } from "./dialog.js";
import { topLevelLink, element, setText } from "./dom.js";
import { dateTime, elapsed, money, number, parseTime, plural, sources, timeSpan, taskPage, httpUrl } from "./format.js";
import { dismiss, player } from "./players.js";

export const STATES = {
  waiting: "Waiting",
  queued: "Queued",
  running: "Running",
  retrying: "Retrying",
  succeeded: "Succeeded",
  failed: "Failed",
  expired: "Expired",
  cancelled: "Cancelled",
  skipped: "Not submitted",
  uncertain: "Uncertain",
};

const GOES_ON = ["waiting", "queued", "running", "retrying"];

const PLACEHOLDERS = {
  waiting: "Waiting to be scheduled",
  queued: "Waiting to be submitted",
  running: "Rendering",
  retrying: "Waiting for its next try",
  failed: "See the log of its task",
  expired: "Expired at the service",
  cancelled: "Cancelled",
  skipped: "Not submitted",
  uncertain: "It is unknown whether the service took this submission",
  succeeded: "No file was stored, and no link to the service that plays is kept",
};

export class Card {
  constructor(run, render) {
    this.run = run;
    this.index = 0;
    this.sourceKey = null;
    this.unsettled = null;
    this.canEdit = false;
    this.answer = null;
    this.node = element("li", "card");
    this.node.tabIndex = -1;
    this.stage = element("div", "stage");
    this.badge = element("span", "badge");
    this.time = element("span", "time");
    this.bar = element("div", "bar", element("i"));
    this.bar.setAttribute("role", "progressbar");
    this.bar.setAttribute("aria-valuemin", "0");
    this.bar.setAttribute("aria-valuemax", "100");
    this.prompt = element("p", "prompt");
    this.details = element("ul", "details");
    this.error = element("p", "error");
    this.request = element("details", "request");
    this.links = element("p", "links");
    this.node.append(
      this.stage,
      element("div", "body", element("div", "status", this.badge, this.time), this.bar, this.prompt, this.error, this.details, this.request, this.links),
    );
    this.node.addEventListener("focusin", () => {
      for (const video of this.stage.querySelectorAll("video")) video.controls = true;
    });
    this.node.addEventListener("focus", () => this.open());
    this.update(render, Date.now());
  }

  /** Show all of prompt and error. Focus within does not: the button that is pressed would move away from the pointer. */
  open() {
    for (const other of document.querySelectorAll(".card.open")) other.classList.remove("open");
    this.node.classList.add("open");
  }

  /** Show a render, if it has changed. */
  update(render, now) {
    const text = JSON.stringify(render);
    if (text === this.text) return;
    this.text = text;
    this.render = render;
    this.searched = [render.prompt, render.model, render.task_id, render.label, render.key, render.generation_id, render.api, render.error, ...Object.values(render.request), ...render.files.map((file) => file.name)]
      .filter(Boolean)
      .join("\n")
      .toLowerCase();
    this.node.dataset.state = render.state;
    this.node.dataset.id = render.id;
    this.name = `${render.prompt ?? render.key ?? render.label ?? render.task_id}`;
    this.node.setAttribute("aria-label", `${STATES[render.state] ?? render.state}: ${this.name}`);
    setText(this.badge, STATES[render.state] ?? render.state);
    this.showPrompt();
    this.showProgress();
    this.showDetails();
    this.showRequest();
    setText(this.error, render.error ?? "");
    this.error.title = render.error ?? "";
    this.error.hidden = !render.error;
    this.showMedia(now);
    this.tick(now);
  }

  /** Update the elapsed time, and the time to the expected end. */
  tick(now) {
    const milliseconds = this.render.state === "uncertain" ? null : elapsed(this.render, now);
    const left = (parseTime(this.render.ends_at) ?? 0) - now;
    const parts = [milliseconds === null ? "" : timeSpan(milliseconds), left > 0 ? `about ${timeSpan(left)} to go` : ""];
    setText(this.time, parts.filter(Boolean).join(", "));
  }

  get inProgress() {
    return this.render.ended_at === null && this.render.started_at !== null;
  }

  showPrompt() {
    const { prompt, count, key, state } = this.render;
    const unknown = GOES_ON.includes(state) ? "The prompt is not known yet" : "The prompt is not known";
    const text = prompt ?? (count ? `A batch of ${plural(count, "render")}` : key ? `Item ${key}` : unknown);
    setText(this.prompt, text);
    this.prompt.classList.toggle("unknown", !prompt);
    this.prompt.title = prompt ?? "";
  }

  showProgress() {
    const { state, progress } = this.render;
    this.bar.hidden = state !== "running";
    this.bar.classList.toggle("unknown", progress === null);
    this.bar.setAttribute("aria-label", `Progress of ${this.name}`);
    if (progress === null) this.bar.removeAttribute("aria-valuenow");
    else this.bar.setAttribute("aria-valuenow", String(progress));
    this.bar.firstChild.style.transform = progress === null ? "" : `scaleX(${progress / 100})`;
    if (progress !== null) setText(this.badge, `${STATES[state]} ${progress} %`);
  }

  showDetails() {
    const { model, api, duration, resolution, credits, cost_usd: cost, output_tokens: tokens, key, label } = this.render;
    const details = [
      ["model", model ?? api, model === null ? "Service, which reports no model" : api ? `Model, at ${api}` : "Model"],
      ["", typeof duration === "number" ? number(duration) + " s" : duration, "Length of the clip"],
      ["", resolution, "Resolution"],
      ["", typeof credits === "number" ? plural(credits, "credit") : null, "Credits"],
      ["", typeof tokens === "number" ? plural(tokens, "token") : null, "Tokens that the service counted"],
      ["cost", typeof cost === "number" ? money(cost) : null, "Cost"],
      ["", key === null || key === undefined ? null : `item ${key}`, "Key of its item"],
      ["", label, "Mapped task instance"],
      ["", this.render.dag_id, "Dag"],
      ["", this.render.dag_id ? dateTime(this.render.started_at) : null, "Submitted"],
    ];
    this.details.replaceChildren(
      ...details
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([kind, value, title]) => {
          const detail = element("li", kind, value);
          detail.title = title;
          return detail;
        }),
    );
  }

  /** The arguments of the request, except those that the card shows anyway. */
  showRequest() {
    const shown = Object.entries(this.render.request).filter(([name]) => !["prompt", "model"].includes(name));
    this.request.hidden = shown.length === 0;
    this.request.replaceChildren(
      element("summary", "", plural(shown.length, "argument")),
      element("dl", "", ...shown.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)])),
    );
  }

  showMedia(now) {
    const found = sources(this.run, this.render, now);
    const key = JSON.stringify(found.length > 0 ? found : this.reason());
    this.showLinks(found);
    if (key === this.sourceKey) return;
    this.sourceKey = key;
    this.index = 0;
    this.place(found);
  }

  place(found) {
    this.release();
    const source = found[this.index];
    if (!source) {
      this.stage.replaceChildren(this.placeholder(this.reason()));
      return;
    }
    const label = found.length > 1 ? `${this.name} (${this.index + 1} of ${found.length})` : this.name;
    const media = player(source, label, (lacksCodec) => {
      this.release();
      const reason = lacksCodec ? "This browser cannot decode the video. Download it, or open the page in another browser." : "This file cannot be played from here";
      this.stage.replaceChildren(this.placeholder(reason));
    });
    this.stage.replaceChildren(media, ...(found.length > 1 ? [this.pager(found)] : []));
  }

  pager(found) {
    const step = (by, text, label) => {
      const button = element("button", "step", text);
      button.type = "button";
      button.setAttribute("aria-label", label);
      button.addEventListener("click", () => {
        this.index = (this.index + by + found.length) % found.length;
        this.place(found);
        this.stage.querySelector(`[aria-label="${label}"]`)?.focus();
      });
      return button;
    };
    return element("div", "pager", step(-1, "‹", "Previous output"), element("span", "", `${this.index + 1} / ${found.length}`), step(1, "›", "Next output"));
  }

  /** The reason why there is nothing to play. */
  reason() {
    const { state, key, error } = this.render;
    const expiry = parseTime(this.render.expires_at);
    if (state === "failed" && error) return "Failed";
    if (state === "succeeded" && expiry !== null && expiry <= Date.now()) return "The URL of the service has expired, and no file was stored";
    return PLACEHOLDERS[state === "waiting" && key !== null ? "queued" : state] ?? state;
  }

  placeholder(text) {
    return element("div", "placeholder", element("span", "mark"), element("span", "", text));
  }

  showLinks(found) {
    const { render } = this;
    const links = [topLevelLink(taskPage(this.run, render), taskName(render), { title: "Show the task instance" })];
    render.files.forEach((file, index) => {
      const source = found[index];
      if (!source?.stored) return;
      const link = topLevelLink(source.url, file.name, { download: file.name, title: file.path });
      link.classList.add("file");
      links.push(link);
    });
    const origin = render.files.length === 0 ? httpUrl(found[0]?.url) : null;
    if (origin) links.push(topLevelLink(origin, "At the service", { target: "_blank", title: origin }));
    const consolePage = httpUrl(render.console);
    if (consolePage) links.push(topLevelLink(consolePage, "Console", { target: "_blank", title: "Show the console of the service" }));
    const actions = [];
    const unsettled = render.can_settle ? render : this.unsettled;
    if (unsettled) actions.push(this.button("Settle…", "Record whether the service billed this submission", "settle", unsettled));
    if (this.answer) {
      const choose = this.button("Use this one", `Answer “${this.answer.text}”`, "choose", this.answer);
      choose.classList.add("primary");
      actions.push(choose);
    }
    if (this.canEdit && canRenderAgain(render)) actions.push(this.button("Render again…", "Pay for another render of this request", "again", render));
    this.links.replaceChildren(...links, ...(actions.length > 0 ? [element("span", "actions", ...actions)] : []));
  }

  /** A button that dispatches an event of the card. */
  button(text, title, name, detail) {
    const button = element("button", "action", text);
    Object.assign(button, { type: "button", title });
    button.addEventListener("click", () => this.node.dispatchEvent(new CustomEvent(name, { bubbles: true, detail })));
    return button;
  }

  /** Offer to settle the uncertain submission of a failed task, as the ledger describes it. */
  setUnsettled(unsettled) {
    if (this.unsettled === unsettled) return;
    this.unsettled = unsettled;
    this.showLinks(sources(this.run, this.render, Date.now()));
  }

  /** Offer what only users may do who may edit the tasks of the Dag. */
  setCanEdit(canEdit) {
    if (this.canEdit === canEdit) return;
    this.canEdit = canEdit;
    this.showLinks(sources(this.run, this.render, Date.now()));
  }

  /** Offer to choose this render as the answer that its run waits for. */
  setAnswer(answer) {
    if (JSON.stringify(this.answer) === JSON.stringify(answer)) return;
    this.answer = answer;
    this.showLinks(sources(this.run, this.render, Date.now()));
  }

  release() {
    for (const media of this.stage.querySelectorAll("video, img")) dismiss(media);
  }

  remove() {
    this.release();
    this.node.remove();
  }
}
