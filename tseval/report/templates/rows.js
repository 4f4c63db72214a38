(function () {
  "use strict";
  var PER_PAGE = 25;
  var book = JSON.parse(document.getElementById("rows-data").textContent);
  var controls = {};
  ["benchmark", "judge", "outcome", "kind", "text", "divided"].forEach(function (name) {
    controls[name] = document.getElementById("rows-" + name);
  });
  var list = document.getElementById("rows-list");
  var status = document.getElementById("rows-status");
  var opener = document.getElementById("rows-open");
  var previous = document.getElementById("rows-previous");
  var next = document.getElementById("rows-next");
  var several = book.rows.some(function (row) { return row.r > 0; });
  var found = [];
  var page = 0;

  // Whatever a model wrote goes into the page as text, never as markup.
  function make(tag, name, text) {
    var element = document.createElement(tag);
    if (name) { element.className = name; }
    if (text !== undefined) { element.textContent = text; }
    return element;
  }
  function put(parent) {
    for (var i = 1; i < arguments.length; i += 1) {
      if (arguments[i]) { parent.appendChild(arguments[i]); }
    }
    return parent;
  }
  function counted(number) { return number.toLocaleString("en"); }

  // -- one rollout

  function written(text) {
    var element = make("div", "text", text);
    element.dir = "auto";
    // What scrolls has to be reached without a mouse.
    if (text.length > 1500) { element.tabIndex = 0; }
    return element;
  }
  // The text is put there when it is asked for: a page of long traces stays light, and nobody
  // meets a completion of a harmful prompt unawares.
  function folded(title, fill) {
    var details = put(make("details", "fold"), make("summary", "", title));
    details.addEventListener("toggle", function () {
      if (details.open && details.childNodes.length === 1) { put(details, fill()); }
    });
    return details;
  }
  function size(text) { return " (" + counted(text.length) + (text.length === 1 ? " character)" : " characters)"); }
  function sign(verdict) {
    return { "x": "not counted", "-": "counts against the model" }[verdict[2]] || "";
  }
  function outcomes(verdict) {
    return verdict[1].map(function (place) { return book.outcomes[place]; }).join(", ");
  }
  function chip(verdict) {
    var name = { "x": "chip lost", "-": "chip against" }[verdict[2]] || "chip";
    var element = make("span", name);
    put(element, make("b", "", book.judges[verdict[0]]), document.createTextNode(" " + outcomes(verdict)));
    if (sign(verdict)) { put(element, make("span", "aside", " (" + sign(verdict) + ")")); }
    return element;
  }
  function judgeWrote(row, verdict) {
    var cell = make("td");
    var said = [verdict[3]].concat(verdict[4].map(function (pair) { return pair[0] + ": " + pair[1]; }));
    var text = said.filter(Boolean).join("\n");
    if (!text) { return cell; }
    // A judge may quote what it was shown.
    var fold = row.h === true || text.length > 200;
    return put(cell, fold ? folded("Show" + size(text), function () { return written(text); }) : written(text));
  }
  function verdicts(row) {
    var wrote = row.v.some(function (verdict) { return verdict[3] || verdict[4].length; });
    var head = make("tr");
    ["judge", "outcome", "in the rate"].concat(wrote ? ["what the judge wrote"] : []).forEach(function (name) {
      var cell = make("th", "", name);
      cell.scope = "col";
      put(head, cell);
    });
    var body = make("tbody");
    row.v.forEach(function (verdict) {
      var name = make("th", "", book.judges[verdict[0]]);
      name.scope = "row";
      put(body, put(make("tr"), name, make("td", "", outcomes(verdict)), make("td", "", sign(verdict) || "counted"),
        wrote ? judgeWrote(row, verdict) : null));
    });
    return put(make("div", "wide"), put(make("table"), put(make("thead"), head), body));
  }
  function body(row) {
    var element = make("div", "body");
    put(element, make("h3", "", "Prompt"), written(row.p));
    if (row.t) {
      put(element, make("h3", "", "Thinking trace"));
      put(element, folded("Show the trace" + size(row.t), function () { return written(row.t); }));
    }
    if (row.a !== undefined) {
      put(element, make("h3", "", "Answer"));
      if (!row.a.trim()) {
        put(element, make("p", "facts", "The answer is empty."));
      } else if (row.h === true) {
        put(element, folded("Show the answer to a harmful prompt" + size(row.a), function () { return written(row.a); }));
      } else {
        put(element, written(row.a));
      }
    }
    put(element, make("p", "facts", row.x.join("; ")));
    if (row.v.length) { put(element, make("h3", "", "Verdicts"), verdicts(row)); }
    return element;
  }
  function item(row) {
    var summary = make("summary");
    var where = [book.benchmarks[row.b], row.g, "sample " + row.s, several && "rollout " + (row.r + 1)];
    put(summary, make("span", "where", where.filter(Boolean).join(" · ")));
    if (row.h !== undefined) { put(summary, make("span", "tag", row.h ? "harmful prompt" : "benign prompt")); }
    if (row.d) { put(summary, make("span", "tag split", "divides the judges")); }
    var chips = make("span", "chips");
    row.v.forEach(function (verdict) { put(chips, chip(verdict)); });
    var excerpt = make("span", "excerpt", row.p.slice(0, 300));
    excerpt.dir = "auto";
    put(summary, excerpt, chips);
    var details = put(make("details", "row"), summary);
    details.addEventListener("toggle", function (event) {
      if (event.target === details && details.open && details.childNodes.length === 1) { put(details, body(row)); }
    });
    return put(make("li"), details);
  }

  // -- which ones

  var texts = null;
  function value(name) { return controls[name] ? controls[name].value : ""; }
  function matching() {
    var benchmark = book.benchmarks.indexOf(value("benchmark"));
    var judge = book.judges.indexOf(value("judge"));
    var outcome = book.outcomes.indexOf(value("outcome"));
    var kind = { "harmful": true, "benign": false }[value("kind")];
    var divided = Boolean(controls.divided && controls.divided.checked);
    var words = value("text").trim().toLowerCase();
    if (words && !texts) {
      texts = book.rows.map(function (row) {
        return [row.s, row.p, row.t || "", row.a || ""].join("\n").toLowerCase();
      });
    }
    function agrees(verdict) {
      return (judge < 0 || verdict[0] === judge) && (outcome < 0 || verdict[1].indexOf(outcome) >= 0);
    }
    return book.rows.filter(function (row, place) {
      return (benchmark < 0 || row.b === benchmark)
        && (kind === undefined || row.h === kind)
        && (!divided || row.d)
        && ((judge < 0 && outcome < 0) || row.v.some(agrees))
        && (!words || texts[place].indexOf(words) >= 0);
    });
  }
  function show() {
    var pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(page, pages - 1);
    var first = page * PER_PAGE;
    var shown = found.slice(first, first + PER_PAGE);
    list.textContent = "";
    list.start = first + 1;
    shown.forEach(function (row) { put(list, item(row)); });
    var of = found.length === book.rows.length ? "" : " of " + counted(book.rows.length);
    status.textContent = found.length
      ? "Showing " + counted(first + 1) + " to " + counted(first + shown.length) + " of "
        + counted(found.length) + (of ? " that match," + of : "") + " rollouts"
      : "None of " + counted(book.rows.length) + " rollouts matches";
    document.getElementById("rows-page").textContent = "Page " + counted(page + 1) + " of " + counted(pages);
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
    opener.textContent = "Open all";
    opener.disabled = !shown.length;
  }
  function filter() {
    found = matching();
    page = 0;
    show();
  }
  function turn(by) {
    page += by;
    show();
    status.focus({ preventScroll: true });
    document.getElementById("rows").scrollIntoView();
  }
  var waiting = 0;
  var form = document.querySelector("#rows form");
  form.addEventListener("submit", function (event) { event.preventDefault(); });
  form.addEventListener("change", filter);
  form.addEventListener("input", function (event) {
    if (event.target !== controls.text) { return; }
    clearTimeout(waiting);
    waiting = setTimeout(filter, 150);
  });
  form.addEventListener("reset", function () { setTimeout(filter, 0); });
  previous.addEventListener("click", function () { turn(-1); });
  next.addEventListener("click", function () { turn(1); });
  opener.addEventListener("click", function () {
    var open = opener.textContent === "Open all";
    list.querySelectorAll("details.row").forEach(function (details) { details.open = open; });
    opener.textContent = open ? "Close all" : "Open all";
  });
  document.getElementById("rows").hidden = false;
  filter();
})();
