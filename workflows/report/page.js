"use strict";
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

  // Axes, grid and text of the charts take their colours from the page.
  const themed = (layout) => {
    const changes = {
      "font.color": colour("--ink"), "hoverlabel.bgcolor": colour("--card"),
      "hoverlabel.font.color": colour("--ink"), "hoverlabel.bordercolor": colour("--line"),
      "modebar.bgcolor": colour("--card"), "modebar.color": colour("--soft"), "modebar.activecolor": colour("--ink"),
    };
    for (const name of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      changes[`${name}.gridcolor`] = colour("--grid");
      changes[`${name}.linecolor`] = colour("--soft");
      changes[`${name}.tickcolor`] = colour("--soft");
    }
    return changes;
  };
  const plots = [...document.querySelectorAll(".plot")];
  const drawn = () => plots.filter((plot) => plot.classList.contains("js-plotly-plot"));
  const recolour = () => Promise.all(drawn().map((plot) => Plotly.relayout(plot, themed(plot.layout))));
  const setTheme = (theme) => { root.dataset.theme = theme; return recolour(); };
  setTheme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));
  document.getElementById("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

  // Each chart can be saved as a picture (SVG) and as its numbers (CSV).
  const save = (name, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000); // once it is saved
  };
  const list = (values) => (values === undefined ? [] : Array.isArray(values) || ArrayBuffer.isView(values) ? [...values] : []);
  const quoted = (value) => `"${String(value ?? "").replace(/<[^>]*>/g, " ").replaceAll('"', '""')}"`;
  const numbers = (plot) => ["trace,x,y", ...plot.data.flatMap((trace, i) => {
    const [x, y] = [list(trace._inputArray?.x ?? trace.x), list(trace.y)];
    return Array.from({ length: Math.max(x.length, y.length) }, (_, k) => [trace.name ?? `trace ${i + 1}`, x[k], y[k]].map(quoted).join(","));
  })].join("\n");
  const config = (plot) => {
    const name = plot.closest("figure")?.id || "chart";
    return {
      responsive: true, displaylogo: false, plotlyServerURL: "",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"], // data of patients are sent nowhere
      toImageButtonOptions: { format: "svg", filename: name },
      modeBarButtonsToAdd: [{ name: "csv", title: "Download the numbers as CSV", icon: Plotly.Icons.disk, click: (graph) => save(`${name}.csv`, numbers(graph)) }],
    };
  };
  const draw = async (plot, width) => {
    const { data, layout } = JSON.parse(plot.parentElement.querySelector("script").textContent);
    await Plotly.newPlot(plot, data, width ? { ...layout, width } : layout, config(plot));
    await Plotly.relayout(plot, themed(layout));
  };
  (async () => {
    for (const plot of plots) {
      if (plot.closest("details:not([open])")) continue; // no width while closed
      await draw(plot);
      await new Promise((resolve) => setTimeout(resolve, 0)); // keeps the page responsive
    }
    root.dataset.drawn = drawn().length;
  })();
  // The panel of a case repeats pictures of its explanation, which the page contains only once.
  const fill = (part) => part.querySelectorAll("img[data-from]:not([src])").forEach((image) => {
    const source = document.getElementById(image.dataset.from);
    if (source) image.src = source.src;
  });
  for (const details of document.querySelectorAll("details")) {
    details.addEventListener("toggle", async () => {
      if (!details.open) return;
      fill(details);
      for (const plot of details.querySelectorAll(".plot:not(.js-plotly-plot)")) await draw(plot);
      root.dataset.drawn = drawn().length;
    });
  }

  for (const pick of document.querySelectorAll(".pick select")) {
    const plot = pick.closest("figure").querySelector(".plot");
    pick.addEventListener("change", () => {
      const all = plot.data.map((_, i) => i), chosen = pick.value === "" ? null : Number(pick.value);
      const opacity = all.map((i) => (chosen === null ? 0.45 : i === chosen ? 1 : 0.1));
      const width = all.map((i) => (i === chosen ? 4 : 1));
      Plotly.restyle(plot, { opacity, "line.width": width }, all);
    });
  }

  // Tables: a click on a header sorts ascending, a second click descending; empty cells stay last.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
    return text === "" || text === "–" ? null : text;
  };
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  for (const table of document.querySelectorAll(".table table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
      rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : up ? order(a, b) : order(b, a)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }
  for (const field of document.querySelectorAll(".find input")) {
    const rows = [...field.closest(".table").querySelectorAll("tbody tr")];
    const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    field.addEventListener("input", () => {
      const terms = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows.forEach((row) => { row.hidden = !terms.every((term) => texts.get(row).includes(term)); });
      const matches = rows.filter((row) => !row.hidden).length;
      field.parentElement.querySelector(".found").textContent = terms.length ? `${matches} of ${rows.length}` : "";
    });
  }

  // A link to what lies in a closed part opens it.
  const open = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
    if (target) target.scrollIntoView();
  };
  window.addEventListener("hashchange", open);
  open();

  const dialog = document.getElementById("enlarged");
  for (const button of document.querySelectorAll(".thumbnail")) {
    button.addEventListener("click", () => {
      const image = button.querySelector("img");
      dialog.querySelector("img").src = image.src;
      dialog.querySelector("img").alt = dialog.querySelector("p").textContent = image.alt;
      dialog.showModal();
    });
  }

  // Print in the light theme with all details open.
  const PRINTED = 460; // px: half of an A4 page in landscape, within its card
  let before = null;
  window.addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    setTheme("light");
    fill(document);
    document.querySelectorAll("details").forEach((part) => { part.open = true; });
    plots.forEach((plot) => (drawn().includes(plot) ? Plotly.relayout(plot, { width: PRINTED }) : draw(plot, PRINTED)));
  });
  window.addEventListener("afterprint", () => {
    if (before) setTheme(before);
    drawn().forEach((plot) => Plotly.relayout(plot, { width: null, autosize: true }));
  });
})();
