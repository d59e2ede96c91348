// Light or dark: as Airflow itself is shown, or else as the browser prefers.

function outerTheme() {
  try {
    if (window.parent !== window) {
      const root = window.parent.document.documentElement;
      const told = root.dataset.theme || [...root.classList].find((name) => name === "dark" || name === "light");
      if (told === "dark" || told === "light") return told;
    }
    const kept = localStorage.getItem("theme");
    if (kept === "dark" || kept === "light") return kept;
  } catch {
    // No access to the page around, or to storage.
  }
  return null;
}

export function followTheme() {
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    document.documentElement.dataset.theme = outerTheme() ?? (prefersDark.matches ? "dark" : "light");
  };
  apply();
  prefersDark.addEventListener("change", apply);
  window.addEventListener("storage", apply);
  try {
    if (window.parent !== window) {
      new MutationObserver(apply).observe(window.parent.document.documentElement, {
        attributes: true,
        attributeFilter: ["class", "data-theme"],
      });
    }
  } catch {
    // As above.
  }
}
