// Light or dark: the theme of Airflow, or else the preference of the browser.

function outerTheme() {
  try {
    if (window.parent !== window) {
      const root = window.parent.document.documentElement;
      const theme = root.dataset.theme || [...root.classList].find((name) => name === "dark" || name === "light");
      if (theme === "dark" || theme === "light") return theme;
    }
    const stored = localStorage.getItem("theme");
    if (stored === "dark" || stored === "light") return stored;
  } catch {
    // No access to the outer page, or to storage.
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
