// A dialog for a decision. Without a form: the sandbox of Airflow's frame submits none.

import { RequestError } from "./api.js";
import { element, setText } from "./dom.js";

/**
 * Open a dialog, and return the button that sends the decision.
 *
 * @param title - Its heading, and its name for screen readers.
 * @param content - Elements.
 * @param action - Text of the button.
 * @param send - Sends the decision; the dialog shows the message of its error, and closes without one.
 * @param isComplete - Whether there is a decision.
 */
export function openDialog({ title, content, action, send, isComplete = () => true }) {
  const failure = element("p", "error");
  failure.setAttribute("role", "alert");
  const confirm = element("button", "button primary", action);
  const cancel = element("button", "button", "Cancel");
  const dialog = element("dialog", "decision", element("h2", "", title), ...content, failure, element("div", "buttons", cancel, confirm));
  dialog.setAttribute("aria-label", title);
  const update = () => (confirm.disabled = !isComplete());
  confirm.addEventListener("click", async () => {
    confirm.disabled = true;
    setText(failure, "");
    try {
      await send();
      dialog.close();
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      setText(failure, error.message);
      update();
    }
  });
  dialog.addEventListener("input", update);
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  update();
  dialog.showModal();
  return confirm;
}

/** The name of the task of a render, with its map index and its pass of a loop. */
export function taskName({ task_id: task, map_index: index, iteration }) {
  return `${task}${index >= 0 ? ` [${index}]` : ""}${iteration === null ? "" : ` (pass ${iteration})`}`;
}
