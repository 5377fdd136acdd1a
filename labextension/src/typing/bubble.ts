/** The small box at a word that says what is wrong with it, or what it means. */

/** Return the box; its texts are put in as text. */
export function bubble(says: {
  problem?: string;
  key?: string;
  help?: string;
}): HTMLElement {
  const box = document.createElement('div');
  box.className = 'jp-dstack-Typing-bubble';
  box.setAttribute('role', 'tooltip');
  if (says.problem) {
    box.append(part('div', 'problem', says.problem));
  }
  if (says.help) {
    const line = part('div', 'help', '');
    if (says.key) {
      line.append(part('code', 'key', says.key), ' ');
    }
    line.append(says.help);
    box.append(line);
  }
  return box;
}

function part(tag: string, name: string, text: string): HTMLElement {
  const element = document.createElement(tag);
  element.className = `jp-dstack-Typing-${name}`;
  element.textContent = text;
  return element;
}
