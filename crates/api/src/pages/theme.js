// Light or dark as the system says, until the button #theme says otherwise. Loaded before the page is drawn, so that it does not flash.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const stored = () => {
    try { return localStorage.getItem("sled.theme"); } catch { return null; }
  };
  const isDark = () => (stored() ?? (system.matches ? "dark" : "light")) === "dark";

  const apply = () => {
    const choice = stored();
    if (choice) document.documentElement.dataset.theme = choice;
    else delete document.documentElement.dataset.theme;
    const button = document.getElementById("theme");
    button?.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
    dispatchEvent(new Event("themechange"));
  };

  const toggle = () => {
    const wanted = isDark() ? "light" : "dark";
    try {
      if (wanted === (system.matches ? "dark" : "light")) localStorage.removeItem("sled.theme");
      else localStorage.setItem("sled.theme", wanted);
    } catch {
      // Without storage the system's choice stays.
    }
    apply();
  };

  apply();
  system.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", toggle);
    apply();
  });
})();
