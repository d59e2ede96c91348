// Elements. Text becomes text nodes only and is never parsed as markup.

export const $ = (id) => document.getElementById(id);

/** An element with a class and children: strings become text. */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** Set the text of an element, if it differs: screen readers announce every change. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * A link to Airflow, to a download or to the service. Airflow shows this page in a sandboxed frame, which may neither
 * navigate the outer window nor open another one (nor download, in Airflow 3.1); so the outer window follows the link.
 */
export function topLevelLink(address, text, { target = "_top", download = null, title = "" } = {}) {
  const link = element("a", "link", text);
  link.href = address;
  link.target = target;
  link.rel = "noopener noreferrer";
  link.title = title;
  if (download !== null) {
    link.download = download;
    link.removeAttribute("target");
  }
  link.addEventListener("click", (event) => {
    if (window.parent === window || event.button !== 0) return;
    try {
      const outer = window.parent.document;
      const twin = outer.createElement("a");
      twin.href = link.href;
      twin.rel = link.rel;
      const newTab = event.ctrlKey || event.metaKey || event.shiftKey;
      twin.target = newTab ? "_blank" : link.target;
      if (download !== null) twin.download = download;
      outer.body.append(twin);
      event.preventDefault();
      twin.click();
      twin.remove();
    } catch {
      // The outer page has another origin: the browser decides.
    }
  });
  return link;
}
