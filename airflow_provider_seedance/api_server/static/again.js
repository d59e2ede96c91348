// The dialog in which a person decides to pay for another render of the same request.

import { post, RequestError } from "./api.js";
import { openDialog, taskName } from "./dialog.js";
import { element } from "./dom.js";
import { money, plural } from "./format.js";

/**
 * Return whether there can be another render: in a loop, a clear would repeat the other passes as well. The library does not
 * know the state of the task; the server refuses what cannot be.
 */
export function canRenderAgain({ state, generation_id: id, iteration, task_state: task }) {
  return state === "succeeded" && id !== null && iteration === null && ["success", "failed", undefined].includes(task);
}

/** Open the dialog for a render of a run; `onSent` is called when its task has been cleared. */
export function openRenderAgain(run, render, onSent) {
  const price = priceOf(render);
  const downstream = element("input");
  downstream.type = "checkbox";
  const item = render.key === null ? "" : `, item ${render.key},`;
  openDialog({
    title: "Render again",
    content: [
      element("p", "", `Task ${taskName(render)}${item} submits the same request once more. ${price ? `That costs ${price}, as much as this render.` : "That is paid for; its price is not known."}`),
      element("p", "", "Airflow clears the task for it. This render stays in the library."),
      element("div", "choices", element("label", "choice", downstream, "Clear the tasks after it as well. Those that render from this one pay, too.")),
    ],
    action: price ? `Render again for ${price}` : "Render again",
    send: async () => {
      await renderAgain(run, render, downstream.checked);
      onSent();
    },
  });
}

function priceOf({ cost_usd: cost, credits }) {
  if (typeof cost === "number" && cost > 0) return money(cost);
  return typeof credits === "number" && credits > 0 ? plural(credits, "credit") : null;
}

async function renderAgain({ dag_id: dag, run_id }, { task_id, map_index, region, generation_id }, include_downstream) {
  const url = `api/dags/${encodeURIComponent(dag)}/library/again`;
  const decision = { run_id, task_id, map_index, region, generation_id };
  await post(url, decision);
  try {
    const task = map_index >= 0 ? [task_id, map_index] : task_id;
    const clear = { dry_run: false, only_failed: false, dag_run_id: run_id, task_ids: [task], include_downstream };
    const cleared = await post(`../api/v2/dags/${encodeURIComponent(dag)}/clearTaskInstances`, clear);
    if (cleared.total_entries === 0) throw new RequestError(404, "Airflow has cleared nothing.");
  } catch (error) {
    await post(url, { ...decision, withdraw: true });
    throw error;
  }
}
