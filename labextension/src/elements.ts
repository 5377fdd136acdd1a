/** Builds plain DOM, for lists that are too long for anything else. Texts are set as texts only. */
import { LabIcon } from '@jupyterlab/ui-components';

/** Return a new element of class *name* with attributes and children. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  name: string,
  attributes: Record<string, string> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  if (name) {
    node.className = name;
  }
  for (const [key, value] of Object.entries(attributes)) {
    node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** Write *text* into *node* only if it is another, so that the page has nothing to do if not. */
export function write(node: HTMLElement, text: string): void {
  if (node.textContent !== text) {
    node.textContent = text;
  }
}

const pictures = new Map<LabIcon, Element>();

/** Return a copy of an icon's picture; the icon's text is read once. */
export function picture(icon: LabIcon): Element {
  let made = pictures.get(icon);
  if (!made) {
    made = icon.element({ tag: 'span', className: 'jp-dstack-Icon' });
    made.setAttribute('aria-hidden', 'true');
    pictures.set(icon, made);
  }
  return made.cloneNode(true) as Element;
}
