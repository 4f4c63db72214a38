(function () {
  "use strict";
  var root = document.documentElement;
  var THEMES = ["auto", "light", "dark"];

  // -- theme

  function theme() { return root.dataset.theme || "auto"; }

  function setUpTheme() {
    var button = document.getElementById("theme");
    function show() { button.textContent = "Theme: " + theme(); }
    button.hidden = false;
    button.addEventListener("click", function () {
      var next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
      if (next === "auto") delete root.dataset.theme; else root.dataset.theme = next;
      try { localStorage.setItem("tseval-theme", next); } catch (error) { /* kept for this page only */ }
      show();
      draw();
    });
    show();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  }

  // -- sorting

  function keyOf(row, place, numeric) {
    var key = row.children[place].dataset.key || "";
    return numeric && key !== "" ? Number(key) : key;
  }

  function compare(a, b) {
    if (typeof a === "number") return a - b;
    return a.localeCompare(b, undefined, { numeric: true, sensitivity: "base" });
  }

  function sort(table, heading, order) {
    var place = Array.prototype.indexOf.call(heading.parentNode.children, heading);
    var numeric = "numeric" in heading.dataset;
    var sign = order === "ascending" ? 1 : -1;
    var body = table.tBodies[0];
    var rows = Array.prototype.slice.call(body.rows);
    rows.sort(function (left, right) {
      var a = keyOf(left, place, numeric), b = keyOf(right, place, numeric);
      // What has no value comes last in both orders.
      if (a === "" || b === "") return (a === "") - (b === "");
      return sign * compare(a, b);
    });
    rows.forEach(function (row) { body.appendChild(row); });
    table.querySelectorAll("[aria-sort]").forEach(function (each) { each.removeAttribute("aria-sort"); });
    heading.setAttribute("aria-sort", order);
    say("sorted by " + heading.querySelector("button").firstChild.textContent.trim() + ", " + order);
  }

  function setUpSorting(table) {
    table.querySelectorAll("thead button").forEach(function (button) {
      var heading = button.closest("th");
      button.addEventListener("click", function () {
        var was = heading.getAttribute("aria-sort");
        var other = was === "ascending" ? "descending" : "ascending";
        sort(table, heading, was ? other : heading.dataset.first);
      });
    });
  }

  // -- filtering

  var form = document.getElementById("filters");

  function say(text) {
    if (form) document.getElementById("said").textContent = text;
  }

  function fits(row, words, kind) {
    // Not the numbers, nor the names of other rows that are better or worse.
    var said = Array.prototype.map.call(row.querySelectorAll(".model > span, .source"), function (each) {
      return each.textContent;
    });
    var text = said.join(" ").toLowerCase();
    return (!kind || row.dataset.kind === kind) && words.every(function (word) { return text.includes(word); });
  }

  function filter() {
    var words = document.getElementById("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    var kind = document.getElementById("kind").value;
    var protocol = document.getElementById("protocol").value;
    var shown = 0, all = 0;
    document.querySelectorAll("[data-panel]").forEach(function (panel) {
      var chosen = !protocol || panel.id === protocol;
      var rows = panel.querySelectorAll("tbody tr");
      var left = 0;
      panel.hidden = !chosen;
      rows.forEach(function (row) {
        row.hidden = !fits(row, words, kind);
        if (!row.hidden) left += 1;
      });
      all += rows.length;
      if (chosen) shown += left;
      if (rows.length) {
        panel.querySelector(".wide").hidden = left === 0;
        panel.querySelector(".none").hidden = left > 0;
      }
    });
    say(shown + " of " + all + " rows");
  }

  function setUpFilters() {
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("change", filter);
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    filter();
  }

  // -- plots

  var COLOURS = { "@accent": "--accent", "@soft": "--soft", "@line": "--line" };

  function colour(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }

  // Colours that are the page's stand in the data under names of their own.
  function painted(value, key) {
    if (Array.isArray(value)) return value.map(function (each) { return painted(each, key); });
    if (value && typeof value === "object") {
      var made = {};
      Object.keys(value).forEach(function (name) { made[name] = painted(value[name], name); });
      return made;
    }
    return key === "color" && COLOURS[value] ? colour(COLOURS[value]) : value;
  }

  function phone() { return window.matchMedia("(max-width: 44rem)").matches; }

  function themed(layout) {
    var made = Object.assign({}, layout, { font: { color: colour("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily } });
    ["xaxis", "yaxis"].forEach(function (name) {
      made[name] = Object.assign({}, layout[name], { gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") });
    });
    made.hoverlabel = { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } };
    made.legend = Object.assign({}, layout.legend, { yref: "container", y: 0, yanchor: "bottom" });
    made.margin = Object.assign({}, layout.margin, { b: layout.showlegend ? 86 : 60 });
    made.modebar = { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--accent") };
    made.height = phone() ? 340 : 400;
    return made;
  }

  function draw() {
    var found = document.getElementById("figures");
    if (!found || !window.Plotly) return;
    JSON.parse(found.textContent).forEach(function (figure) {
      window.Plotly.react(figure.name, painted(figure.data), themed(figure.layout), {
        responsive: true,
        displaylogo: false,
        // On a phone it would lie on the plot, and never go away.
        displayModeBar: phone() ? false : undefined,
        // Nothing leaves the page.
        showSendToCloud: false,
        plotlyServerURL: "",
        topojsonURL: "",
        toImageButtonOptions: { format: "svg", filename: figure.name },
        modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d"]
      });
    });
  }

  // -- links to protocols

  function open() {
    var target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    if (target && target.tagName === "DETAILS") target.open = true;
  }

  setUpTheme();
  document.querySelectorAll("[data-sortable]").forEach(setUpSorting);
  if (form) setUpFilters();
  window.addEventListener("hashchange", open);
  open();
  // plotly.js is large, and comes after all else.
  window.addEventListener("load", draw);
})();
