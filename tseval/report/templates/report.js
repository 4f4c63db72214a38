(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }
  // Entries of the legend stand in rows below the axis, which needs room for them.
  function roomy(layout, entries, width) {
    var rows = layout.showlegend ? Math.ceil(entries / Math.max(1, Math.floor(width / 210))) : 0;
    layout.legend = Object.assign({}, layout.legend, { yref: "container", y: 0, yanchor: "bottom" });
    layout.margin = Object.assign({}, layout.margin, { b: 64 + 22 * rows });
    layout.height = 360 + 22 * rows;
    return layout;
  }
  function themed(layout) {
    var axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line") };
    var made = Object.assign({}, layout, { font: { color: colour("--ink"), size: 13 } });
    made.xaxis = Object.assign({}, layout.xaxis, axis);
    made.yaxis = Object.assign({}, layout.yaxis, axis);
    return made;
  }
  function draw() {
    figures.forEach(function (figure) {
      var width = document.getElementById(figure.name).clientWidth;
      var entries = figure.data.filter(function (trace) { return trace.showlegend !== false; }).length;
      Plotly.react(figure.name, figure.data, roomy(themed(figure.layout), entries, width), {
        responsive: true,
        displaylogo: false,
        // Nothing of a run leaves the page.
        showSendToCloud: false,
        plotlyServerURL: "",
        topojsonURL: "",
        toImageButtonOptions: { format: "svg", filename: figure.name },
        modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d"]
      });
    });
  }
  draw();
  dark.addEventListener("change", draw);
})();
