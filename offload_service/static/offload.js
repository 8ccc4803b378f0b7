// Renews what the page shows, without moving the focus. Without this script the page works as well.
"use strict";
for (const part of document.querySelectorAll("[data-renew]")) {
  const every = 1000 * Number(part.dataset.renew);
  const renew = async () => {
    if (!document.hidden && !part.contains(document.activeElement)) {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (answer.ok) {
          const page = new DOMParser().parseFromString(await answer.text(), "text/html");
          const fresh = page.querySelector("[data-renew]");
          if (fresh && fresh.innerHTML !== part.innerHTML) {
            const open = [...part.querySelectorAll("details")].map((one) => one.open);
            part.innerHTML = fresh.innerHTML;
            part.querySelectorAll("details").forEach((one, at) => { one.open = Boolean(open[at]); });
          }
        }
      } catch {
        // The hub restarts: what is shown stays, and the next attempt comes.
      }
    }
    setTimeout(renew, every * (0.9 + 0.2 * Math.random()));
  };
  setTimeout(renew, every);
}
// The hub's own pages follow the system's colours this way.
const dark = matchMedia("(prefers-color-scheme: dark)");
const colour = () => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("jupyterhub-bs-theme");
  } catch {
    // Storage may be forbidden.
  }
  document.documentElement.dataset.bsTheme = chosen || (dark.matches ? "dark" : "light");
};
colour();
dark.addEventListener("change", colour);
