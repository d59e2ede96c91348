// The choice that a run waits for: a task of Airflow's human-in-the-loop operators, answered on the cards of its options.

import { ledger, post, RequestError } from "./api.js";
import { openDialog } from "./dialog.js";
import { $, element, topLevelLink } from "./dom.js";
import { taskPage } from "./format.js";

const WAITING = ["deferred", "awaiting_input"];

export class Choice {
  /** `onChange` is called when other cards are to be shown. */
  constructor(run, onChange) {
    this.base = `../api/v2/dags/${encodeURIComponent(run.dag_id)}/dagRuns/${encodeURIComponent(run.run_id)}`;
    this.run = run;
    this.onChange = onChange;
    this.key = "";
    this.comparing = true;
    this.mayAnswer = false;
    this.answers = new Map();
  }

  /** Read whether the run waits for a choice between renders; a user without the right to read it sees none. */
  async refresh(cards) {
    let found = null;
    try {
      const { hitl_details: details } = await ledger(`${this.base}/hitlDetails?response_received=false`);
      for (const detail of details.filter(({ task_instance: task }) => WAITING.includes(task.state))) {
        const answers = answersOf(detail, cards);
        if (answers.size > 0 && found === null) found = { detail, answers };
      }
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
    }
    const { subject, options, assigned_users: assigned, created_at: at } = found?.detail ?? {};
    const key = found ? JSON.stringify([subject, options, assigned, at, [...found.answers]]) : "";
    if (key === this.key) return;
    this.mayAnswer = found !== null && (await this.isAllowed(found.detail));
    this.key = key;
    this.detail = found?.detail ?? null;
    this.answers = found?.answers ?? new Map();
    this.show();
  }

  /** Whether Airflow would take an answer of this user, who otherwise is offered none. */
  async isAllowed({ assigned_users: assigned }) {
    const query = new URLSearchParams((assigned ?? []).map(({ id }) => ["assigned", id]));
    const { answer } = await ledger(`api/dags/${encodeURIComponent(this.run.dag_id)}/rights?${query}`);
    return answer;
  }

  /** Whether a render is not among the options while these are compared. */
  hides(render) {
    return this.comparing && this.answers.size > 0 && !this.answers.has(render.id);
  }

  answerOf(render) {
    return this.mayAnswer ? (this.answers.get(render.id) ?? null) : null;
  }

  show() {
    $("choice").hidden = this.detail === null;
    $("grid").classList.toggle("compare", this.comparing && this.detail !== null);
    if (this.detail !== null) $("choice").replaceChildren(...this.line().filter(Boolean));
    this.onChange();
  }

  line() {
    const { subject, options, task_instance: task } = this.detail;
    const compare = element("button", "chip", "Only the options");
    compare.type = "button";
    compare.setAttribute("aria-pressed", String(this.comparing));
    compare.addEventListener("click", () => {
      this.comparing = !this.comparing;
      this.show();
      $("choice").querySelector(".chip").focus();
    });
    const onCards = new Set([...this.answers.values()].map(({ text }) => text));
    const rest = options.filter((option) => !onCards.has(option) && this.byOption && this.mayAnswer);
    const buttons = rest.map((option) => {
      const button = element("button", "button", option);
      button.type = "button";
      button.addEventListener("click", () => this.ask({ text: option, chosen_options: [option], params_input: {} }));
      return button;
    });
    const region = task.region_id ? `${task.region_id}.${task.region_index}` : "";
    const place = taskPage(this.run, { ...task, region }, "/required_actions");
    return [element("strong", "", subject), this.mayAnswer ? null : element("span", "", this.refusal), ...buttons, compare, topLevelLink(place, "In Airflow", { title: "Show the question in Airflow" })];
  }

  /** The reason for which the user is offered no answer. */
  get refusal() {
    const names = (this.detail.assigned_users ?? []).map(({ name, id }) => name || id);
    return names.length > 0 ? `Only ${names.join(", ")} may answer.` : "You do not have the right to answer.";
  }

  /** Whether the options themselves are the answers, and not a parameter. */
  get byOption() {
    return [...this.answers.values()].every(({ chosen_options: [option], text }) => option === text);
  }

  /** Ask for confirmation, then answer: what follows may be paid for. */
  ask({ text, chosen_options, params_input }) {
    const { detail } = this;
    const { subject, task_instance: task } = detail;
    openDialog({
      title: subject,
      content: [element("p", "", `The answer “${text}” is final: the run goes on with it.`)],
      action: `Choose “${text}”`,
      send: async () => {
        const url = `${this.base}/taskInstances/${encodeURIComponent(task.task_id)}/${task.map_index}/hitlDetails`;
        await post(url, { chosen_options, params_input, request_created_at: detail.created_at }, "PATCH");
        this.key = "";
        this.detail = null;
        this.answers = new Map();
        this.show();
      },
    });
  }
}

/** The answers by the id of the render that they choose: options, or values of a parameter, that name it. */
function answersOf({ options, params }, cards) {
  const values = Object.fromEntries(Object.entries(params).map(([name, param]) => [name, param.value]));
  const found = new Map();
  for (const { render } of cards) {
    if (render.state !== "succeeded") continue;
    const names = [render.label, render.key, render.generation_id].filter((name) => name !== null);
    const option = options.find((text) => names.includes(text));
    if (option !== undefined) {
      found.set(render.id, { text: option, chosen_options: [option], params_input: values });
      continue;
    }
    for (const [name, { schema }] of Object.entries(params)) {
      const value = schema?.enum?.find((text) => names.includes(text));
      if (value !== undefined) found.set(render.id, { text: value, chosen_options: [options[0]], params_input: { ...values, [name]: value } });
    }
  }
  return found;
}
