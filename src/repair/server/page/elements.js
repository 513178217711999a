// Makes elements; text is always text and never markup.

/** An element with attributes, listeners (onclick: …) and children. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Tell a screen reader what happened. */
export function announce(text) {
  document.getElementById("announce").textContent = text;
}

/** Save an object as a JSON file. */
export function save(name, object) {
  saveAs(name, JSON.stringify(object, null, 1), "application/json");
}

/** Save text as a file. */
export function saveAs(name, text, type) {
  const blob = new Blob([text], { type });
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  URL.revokeObjectURL(link.href);
}
