// The dialog in which a person settles an uncertain submission. Without a form: the sandbox of Airflow's frame submits none.

import { ledger, RequestError } from "./api.js";
import { element, setText } from "./dom.js";

const CONSEQUENCES = {
  billed: "The next try of the task delivers this generation, and pays nothing.",
  nothing: "The next try of the task submits again, and pays for that.",
};

/** Open the dialog for a render of the ledger; `onSettled` is called when the ledger has recorded the decision. */
export function openSettling(render, onSettled) {
  const id = element("input", "search");
  Object.assign(id, { type: "text", autocomplete: "off", spellcheck: false, placeholder: "Generation id" });
  id.setAttribute("aria-label", "Generation id");
  const [billed, billedLabel] = choice("billed", "A generation was billed:");
  const [nothing, nothingLabel] = choice("nothing", "Nothing was billed");
  const consequence = element("p", "consequence");
  const failure = element("p", "error");
  failure.setAttribute("role", "alert");
  const record = element("button", "button primary", "Record");
  const cancel = element("button", "button", "Cancel");
  const task = render.map_index >= 0 ? `${render.task_id} [${render.map_index}]` : render.task_id;
  const item = render.key === null ? "" : `, item ${render.key}`;
  const dialog = element(
    "dialog",
    "settling",
    element("h2", "", "Settle an uncertain submission"),
    element("p", "", `Task ${task}${item} of run ${render.run_id} of ${render.dag_id} may have paid for one generation at ${render.api}. Look for it in the console of the service.`),
    element("div", "choices", billedLabel, id, nothingLabel),
    consequence,
    failure,
    element("div", "buttons", cancel, record),
  );
  dialog.setAttribute("aria-label", "Settle an uncertain submission");
  const update = () => {
    const chosen = billed.checked ? "billed" : nothing.checked ? "nothing" : null;
    setText(consequence, chosen ? CONSEQUENCES[chosen] : "");
    record.disabled = !(nothing.checked || (billed.checked && id.value.trim()));
  };
  const send = async () => {
    if (record.disabled) return;
    record.disabled = true;
    setText(failure, "");
    try {
      await settle(render, billed.checked ? id.value.trim() : null);
      dialog.close();
      onSettled();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      setText(failure, error.message);
      update();
    }
  };
  for (const radio of [billed, nothing]) radio.addEventListener("change", update);
  id.addEventListener("input", () => {
    billed.checked = true;
    update();
  });
  id.addEventListener("keydown", (event) => event.key === "Enter" && send());
  record.addEventListener("click", send);
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  update();
  dialog.showModal();
  id.focus();
}

function choice(value, text) {
  const radio = element("input");
  Object.assign(radio, { type: "radio", name: "settling", value });
  return [radio, element("label", "choice", radio, text)];
}

function settle({ dag_id: dag, run_id, task_id, map_index, loop_index, record_key }, generation_id) {
  return ledger(`api/dags/${encodeURIComponent(dag)}/library/resolve`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ run_id, task_id, map_index, loop_index, record_key, generation_id }),
  });
}
