(function () {
  "use strict";
  var figures = JSON.parse(document.getElementById("figures").textContent);
  var dark = window.matchMedia("(prefers-color-scheme: dark)");
  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
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
      Plotly.react(figure.name, figure.data, themed(figure.layout), {
        responsive: true,
        displaylogo: false,
        showEditInChartStudio: false,
        topojsonURL: "",
        toImageButtonOptions: { format: "svg", filename: figure.name },
        modeBarButtonsToRemove: ["select2d", "lasso2d"]
      });
    });
  }
  draw();
  dark.addEventListener("change", draw);
})();
