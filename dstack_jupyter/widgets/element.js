/** Make an element; text goes in as text, never as HTML. */
export function element(name, className, attributes = {}, ...content) {
  const node = document.createElement(name);
  if (className) node.className = className;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...content);
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Make a button with a hint. */
export function button(text, title, onClick) {
  const node = element("button", "dstack-button", { type: "button" }, text);
  if (title) node.title = title;
  node.addEventListener("click", onClick);
  return node;
}

/** Make a button that copies what *textOf* returns, and says so for a moment. */
export function copyButton(title, textOf) {
  const node = button("Copy", title, async () => {
    await navigator.clipboard.writeText(textOf());
    node.textContent = "Copied";
    setTimeout(() => setText(node, "Copy"), 1500);
  });
  return node;
}
