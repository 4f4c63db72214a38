(function () {
  "use strict";
  // Before anything is painted: a page must not flash in the other theme.
  try {
    var kept = localStorage.getItem("tseval-theme");
    if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
  } catch (error) { /* storage is switched off: the system's theme it is */ }
})();
