"use strict";
(() => {
  const every = (selector, within = document) => [...within.querySelectorAll(selector)];

  // What an SVG title says appears at once, on touch and keyboard too.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  const hide = () => { tip.hidden = true; };
  const show = (event) => {
    const mark = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    if (!mark) { hide(); return; }
    tip.textContent = mark.dataset.tip;
    tip.hidden = false;
    const place = mark.getBoundingClientRect();
    const left = Math.min(place.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = place.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, left) + scrollX}px`;
    tip.style.top = `${(above < 0 ? place.bottom + 8 : above) + scrollY}px`;
  };
  for (const title of every("svg g > title")) {
    const mark = title.parentElement;
    mark.dataset.tip = title.textContent;
    mark.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  document.addEventListener("pointerover", show);
  document.addEventListener("click", show);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

  // Check boxes show and hide what belongs to one method, everywhere on the page.
  for (const box of every("input[data-shows]")) {
    box.addEventListener("change", () => {
      for (const part of every(`[data-method="${box.dataset.shows}"]`)) {
        part.classList.toggle("off", !box.checked);
      }
    });
  }

  // A click on a column's heading sorts the table by it; a second click turns the order round.
  const key = (row, column) => {
    const text = row.cells[column]?.textContent.trim() ?? "";
    const number = Number.parseFloat(text.replaceAll(",", ""));
    return Number.isNaN(number) ? text : number;
  };
  const order = (one, other) =>
    typeof one === "number" && typeof other === "number" ? one - other
      : typeof one === "number" ? -1 : typeof other === "number" ? 1 : one.localeCompare(other);
  for (const table of every("table.sortable")) {
    every("thead th", table).forEach((heading, column) => {
      const button = document.createElement("button");
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const other of every("thead th", table)) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((one, other) => order(key(one, column), key(other, column)));
        body.append(...(down ? rows.reverse() : rows));
      });
    });
  }

  // Paper has no closed parts.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = every("details:not([open])");
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
})();
