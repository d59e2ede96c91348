// The dialog in which a person settles an uncertain submission.

import { post } from "./api.js";
import { openDialog, taskName } from "./dialog.js";
import { element, setText } from "./dom.js";

const CONSEQUENCES = {
  billed: "Then clear the task: its next try delivers this render, and pays nothing.",
  nothing: "Then clear the task: its next try submits again, and pays for that.",
};

/** Open the dialog for a render of the ledger; `onSettled` is called when the ledger has recorded the decision. */
export function openSettling(render, onSettled) {
  const id = element("input", "search");
  Object.assign(id, { type: "text", autocomplete: "off", spellcheck: false, placeholder: "Generation id" });
  id.setAttribute("aria-label", "Generation id");
  const [billed, billedLabel] = choice("billed", "A render was billed, with this id:");
  const [nothing, nothingLabel] = choice("nothing", "Nothing was billed");
  const consequence = element("p", "consequence");
  const choices = element("div", "choices", billedLabel, id, nothingLabel);
  const item = render.key === null ? "" : `, item ${render.key}`;
  id.addEventListener("input", () => (billed.checked = true));
  choices.addEventListener("input", () => setText(consequence, billed.checked ? CONSEQUENCES.billed : nothing.checked ? CONSEQUENCES.nothing : ""));
  const confirm = openDialog({
    title: "Settle an uncertain submission",
    content: [
      element("p", "", `Task ${taskName(render)}${item} of run ${render.run_id} of Dag ${render.dag_id} may have paid for one render at ${render.api}. Look for it in the console of the service.`),
      choices,
      consequence,
    ],
    action: "Record",
    isComplete: () => nothing.checked || (billed.checked && id.value.trim() !== ""),
    send: async () => {
      await settle(render, billed.checked ? id.value.trim() : null);
      onSettled();
    },
  });
  id.addEventListener("keydown", (event) => event.key === "Enter" && confirm.click());
  id.focus();
}

function choice(value, text) {
  const radio = element("input");
  Object.assign(radio, { type: "radio", name: "settling", value });
  return [radio, element("label", "choice", radio, text)];
}

function settle({ dag_id: dag, run_id, task_id, map_index, loop_index, record_key }, generation_id) {
  return post(`api/dags/${encodeURIComponent(dag)}/library/resolve`, { run_id, task_id, map_index, loop_index, record_key, generation_id });
}
