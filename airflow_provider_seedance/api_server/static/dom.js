// Making elements. Text becomes text nodes and nothing else: there is no way here to make markup of it.

export const $ = (id) => document.getElementById(id);

/** An element with a class and children: strings become text. */
export function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** Set the text of an element, if it is another one: what has not changed is not announced again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * A link that leaves this page: to Airflow itself, to a download, to the service. Inside Airflow this page lives in a
 * sandboxed frame, which may neither navigate the window around it nor open another one (nor download, in Airflow
 * 3.1); so the link is followed by that window.
 */
export function leavingLink(address, text, { target = "_top", download = null, title = "" } = {}) {
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
      const aside = event.ctrlKey || event.metaKey || event.shiftKey;
      twin.target = aside ? "_blank" : link.target;
      if (download !== null) twin.download = download;
      outer.body.append(twin);
      event.preventDefault();
      twin.click();
      twin.remove();
    } catch {
      // Shown by a page of another origin: the link does what the browser allows.
    }
  });
  return link;
}
