(() => {
  "use strict";
  const { runs, colors, charts } = JSON.parse(document.getElementById("payload").textContent);
  const hidden = new Set();

  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const nearest = (points, place) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < place) low = middle; else high = middle;
    }
    return Math.abs(points[low][0] - place) <= Math.abs(points[high][0] - place) ? points[low] : points[high];
  };

  const words = (value) => Number(value.toPrecision(5)).toString();

  for (const figure of document.querySelectorAll(".chart")) {
    const chart = charts[Number(figure.dataset.chart)];
    const svg = figure.querySelector("svg");
    const members = chart.members.length ? chart.members : null;
    const cursor = svg.querySelector(".cursor");
    let tip = null, place = null;

    const hide = () => { cursor.setAttribute("hidden", ""); if (tip) tip.remove(); tip = null; };
    const show = () => {
      const lines = chart.lines.filter((line) => (members || !hidden.has(line.run)) && line.points.length);
      if (!lines.length) return hide();
      const found = lines.map((line) => [line.run, nearest(line.points, place)]);
      const first = found.reduce((a, b) => Math.abs(a[1][0] - place) <= Math.abs(b[1][0] - place) ? a : b)[1];
      cursor.removeAttribute("hidden");
      cursor.setAttribute("x1", first[0]);
      cursor.setAttribute("x2", first[0]);
      if (!tip) figure.append(tip = element("div", "tip"));
      tip.replaceChildren(element("div", "at", `${chart.axis} ${words(first[2])}`), ...found.map(([run, point]) => {
        const row = element("div");
        const color = members ? run % 8 : colors[run], name = (members || runs)[run];
        row.append(element("span", `swatch r${color}`), element("span", "who", name), element("b", "", words(point[3])));
        return row;
      }));
      const box = svg.getBoundingClientRect(), frame = figure.getBoundingClientRect();
      const at = box.left - frame.left + first[0] / 420 * box.width;
      const left = at + 14 + tip.offsetWidth > frame.width ? at - 14 - tip.offsetWidth : at + 14;
      tip.style.left = `${Math.max(4, left)}px`;
      tip.style.top = `${box.top - frame.top + 8}px`;
    };

    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      place = (event.clientX - box.left) / box.width * 420;
      show();
    });
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") return hide();
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      event.preventDefault();
      place = Math.min(406, Math.max(50, (place ?? 50) + (event.key === "ArrowLeft" ? -9 : 9)));
      show();
    });
  }

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const run = Number(button.dataset.run), shown = hidden.has(run);
      if (shown) hidden.delete(run); else hidden.add(run);
      button.setAttribute("aria-pressed", String(shown));
      const its = `.run[data-run="${run}"], .chart[data-of-run="${run}"]`;
      for (const part of document.querySelectorAll(its)) part.style.display = shown ? "" : "none";
    });
  }

  const dialog = document.getElementById("large"), large = dialog.querySelector("img");
  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const image = button.querySelector("img");
      large.src = image.src;
      large.alt = image.alt;
      dialog.showModal();
    });
  }
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
})();
