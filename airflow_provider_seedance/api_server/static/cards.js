// One card for each render. A card is made once and then changed only where its render has changed.

import { leavingLink, element, setText } from "./dom.js";
import { elapsed, money, number, plural, sources, span, taskPage, webAddress } from "./format.js";
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
  skipped: "Skipped",
};

const HINTS = {
  waiting: "Waiting for its turn",
  queued: "Waiting to be submitted",
  running: "Rendering",
  retrying: "Will be tried again",
  failed: "The log of its task says why",
  expired: "The service let it expire",
  cancelled: "Cancelled",
  skipped: "Not submitted",
  succeeded: "The address of the service has expired, and no file was stored",
};

export class Card {
  constructor(run, render) {
    this.run = run;
    this.index = 0;
    this.sourceKey = null;
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
    this.facts = element("ul", "facts");
    this.error = element("p", "error");
    this.links = element("p", "links");
    this.node.append(
      this.stage,
      element("div", "body", element("div", "status", this.badge, this.time), this.bar, this.prompt, this.error, this.facts, this.links),
    );
    this.node.addEventListener("focusin", () => {
      for (const video of this.stage.querySelectorAll("video")) video.controls = true;
    });
    this.update(render, Date.now());
  }

  /** Show a render; does nothing if it is as before. */
  update(render, now) {
    const text = JSON.stringify(render);
    if (text === this.text) return;
    this.text = text;
    this.render = render;
    this.searched = [render.prompt, render.model, render.task_id, render.label, render.key, render.generation_id, render.api, render.error, ...render.files.map((file) => file.name)]
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
    this.showFacts();
    setText(this.error, render.error ?? "");
    this.error.hidden = !render.error;
    this.showMedia(now);
    this.tick(now);
  }

  /** Keep the time of what goes on. */
  tick(now) {
    const taken = elapsed(this.render, now);
    setText(this.time, taken === null ? "" : span(taken));
  }

  get goesOn() {
    return this.render.ended_at === null && this.render.started_at !== null;
  }

  showPrompt() {
    const { prompt, count, key } = this.render;
    const text = prompt ?? (count ? `A campaign of ${plural(count, "render")}` : key ? `Item ${key}` : "The prompt is not known yet");
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

  showFacts() {
    const { model, api, duration, resolution, credits, cost_usd: cost, key, label } = this.render;
    const facts = [
      ["model", model ?? api, model === null ? "Service; it names no model" : api ? `Model, at ${api}` : "Model"],
      ["", typeof duration === "number" ? number(duration) + " s" : duration, "Length of the clip"],
      ["", resolution, "Resolution"],
      ["", typeof credits === "number" ? plural(credits, "credit") : null, "What it took"],
      ["cost", typeof cost === "number" ? money(cost) : null, "What it cost"],
      ["", key, "Key of its item"],
      ["", label, "Mapped task instance"],
    ];
    this.facts.replaceChildren(
      ...facts
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([kind, value, title]) => {
          const fact = element("li", kind, value);
          fact.title = title;
          return fact;
        }),
    );
  }

  showMedia(now) {
    const found = sources(this.run, this.render, now);
    const key = JSON.stringify(found);
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
      this.stage.replaceChildren(this.hint(HINTS[this.render.state] ?? this.render.state));
      return;
    }
    const label = found.length > 1 ? `${this.name} (${this.index + 1} of ${found.length})` : this.name;
    const media = player(source, label, () => {
      this.release();
      this.stage.replaceChildren(this.hint("This file cannot be played from here"));
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

  hint(text) {
    return element("div", "hint", element("span", "mark"), element("span", "", text));
  }

  showLinks(found) {
    const { render } = this;
    const name = render.map_index >= 0 ? `${render.task_id} [${render.map_index}]` : render.task_id;
    const links = [leavingLink(taskPage(this.run, render), name, { title: "Show the task instance" })];
    render.files.forEach((file, index) => {
      const source = found[index];
      if (!source?.stored) return;
      const link = leavingLink(source.url, file.name, { download: file.name, title: file.path });
      link.classList.add("file");
      links.push(link);
    });
    const origin = render.files.length === 0 ? webAddress(found[0]?.url) : null;
    if (origin) links.push(leavingLink(origin, "At the service", { target: "_blank", title: origin }));
    this.links.replaceChildren(...links);
  }

  release() {
    for (const media of this.stage.querySelectorAll("video, img")) dismiss(media);
  }

  remove() {
    this.release();
    this.node.remove();
  }
}
