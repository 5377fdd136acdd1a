/**
 * Tell a root element whether its page is light or dark, and follow the page when that changes.
 * Hosts say it each in their own way; what they have in common is the colour of their text.
 */
export function followTheme(root) {
  const look = () => {
    const parts = getComputedStyle(root).color.match(/[\d.]+/g) ?? [0, 0, 0];
    const [red, green, blue] = parts.map(Number);
    const theme = 0.3 * red + 0.59 * green + 0.11 * blue > 140 ? "dark" : "light";
    if (root.dataset.theme !== theme) root.dataset.theme = theme;
  };
  const soon = () => requestAnimationFrame(look);
  const observer = new MutationObserver(soon);
  const watched = { attributes: true, attributeFilter: ["class", "style", "data-jp-theme-name", "data-vscode-theme-kind"] };
  observer.observe(document.body, watched);
  observer.observe(document.documentElement, watched);
  const media = matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", soon);
  soon();
  return () => {
    observer.disconnect();
    media.removeEventListener("change", soon);
  };
}
