// The list of all files: filter, search, sort, and a card below the row that is opened.
const PAGE_ROWS = 60;
const COLUMNS = [
  ["name", "File"],
  ["verdict", "Verdict"],
  ["why", "Why"],
  ["seconds", "Length"],
  ["authenticity", "Authenticity"],
];
// Numbers that are not known come last, whichever way the list is sorted.
const ORDERS = {
  place: (a, b) => a - b,
  name: (a, b) => lines[a].name.localeCompare(lines[b].name) || a - b,
  verdict: (a, b) => lines[a].verdict - lines[b].verdict || a - b,
  why: (a, b) => lines[a].why.localeCompare(lines[b].why) || a - b,
  seconds: (a, b) => lines[a].seconds - lines[b].seconds || a - b,
  authenticity: (a, b) => lines[a].authenticity - lines[b].authenticity || a - b,
};
const SORTS = [
  ["place", "ascending", "Most suspicious first"],
  ["name", "ascending", "Name, A to Z"],
  ["name", "descending", "Name, Z to A"],
  ["verdict", "ascending", "Verdict, gravest first"],
  ["verdict", "descending", "Verdict, gravest last"],
  ["why", "ascending", "Reason, A to Z"],
  ["why", "descending", "Reason, Z to A"],
  ["seconds", "ascending", "Length, shortest first"],
  ["seconds", "descending", "Length, longest first"],
  ["authenticity", "ascending", "Authenticity, lowest first"],
  ["authenticity", "descending", "Authenticity, highest first"],
];

const found = (id) => document.getElementById(id);
const state = { text: "", verdicts: new Set(), family: "", folder: "", sort: "place", way: "ascending", shown: PAGE_ROWS, open: new Set() };
const haystacks = lines.map((line) => `${line.name} ${line.folder} ${line.why} ${about.verdicts[line.verdict][0]} ${about.verdicts[line.verdict][1]}`.toLowerCase());
let matching = [];

const matches = (line, place) => {
  if (state.verdicts.size && !state.verdicts.has(about.verdicts[line.verdict][0])) return false;
  if (state.folder && line.folder !== state.folder && !line.folder.startsWith(`${state.folder}/`)) return false;
  if (state.family) {
    const [how, family] = state.family.split(":");
    const number = Number(family);
    if (how === "towards" && !line.towards.includes(number)) return false;
    if (how === "judged" && !line.judged.includes(number)) return false;
    if (how === "silent" && (line.judged.includes(number) || line.verdict > 3)) return false;
  }
  return !state.text || state.text.split(/\s+/).every((word) => haystacks[place].includes(word));
};

const sorted = (places) => {
  const numeric = state.sort === "seconds" || state.sort === "authenticity";
  const known = numeric ? places.filter((place) => lines[place][state.sort] !== null) : places;
  const unknown = numeric ? places.filter((place) => lines[place][state.sort] === null) : [];
  known.sort(ORDERS[state.sort]);
  if (state.way === "descending") known.reverse();
  return [...known, ...unknown];
};

const openerOf = (place) => found(`open-${place}`);

const toggle = (place, open = !state.open.has(place)) => {
  const button = openerOf(place);
  if (!button) return;
  button.setAttribute("aria-expanded", String(open));
  const row = button.closest("tr");
  row.classList.toggle("opened", open);
  if (!open) {
    state.open.delete(place);
    found(`card-${place}`)?.remove();
    return;
  }
  state.open.add(place);
  if (!found(`card-${place}`)) {
    row.after(element("tr", { class: "card-row", id: `card-${place}` }, element("td", { colspan: COLUMNS.length }, makeCard(place))));
  }
};

const meter = (value) =>
  value === null
    ? element("span", { class: "meaning" }, "none")
    : element("span", { class: "meter" }, d3.create("svg").attr("viewBox", "0 0 100 6").attr("preserveAspectRatio", "none").attr("aria-hidden", "true").call((svg) => {
        svg.append("rect").attr("class", "all").attr("width", 100).attr("height", 6);
        svg.append("rect").attr("class", "part").attr("width", 100 * value).attr("height", 6);
      }).node(), value.toFixed(2));

const rowOf = (place) => {
  const line = lines[place];
  const folder = folderShown(line.folder);
  const button = element(
    "button",
    { type: "button", class: "opener", id: `open-${place}`, "aria-expanded": "false", onclick: () => toggle(place) },
    element("span", { class: "arrow", "aria-hidden": "true" }),
    element("span", {}, element("bdi", { class: "name" }, line.name), folder ? element("bdi", { class: "folder" }, folder) : ""),
  );
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, button),
    element("td", { class: "c-verdict" }, badge(line)),
    element("td", { class: "c-why", dir: "auto" }, line.why),
    element("td", { class: "n c-seconds" }, line.seconds === null ? "" : clock(line.seconds)),
    element("td", { class: "n c-authenticity" }, line.verdict > 3 ? "" : meter(line.authenticity)),
  );
};

const addRows = (from, to) => {
  const rows = document.createDocumentFragment();
  const fresh = matching.slice(from, to);
  for (const place of fresh) rows.append(rowOf(place));
  found("rows").append(rows);
  for (const place of fresh) if (state.open.has(place)) toggle(place, true);
  found("more").hidden = to >= matching.length;
};

const showMore = () => {
  if (state.shown >= matching.length) return;
  const from = state.shown;
  state.shown += PAGE_ROWS;
  addRows(from, state.shown);
};

const drawHeads = () => {
  found("heads").replaceChildren(
    ...COLUMNS.map(([name, title]) => {
      const now = state.sort === name;
      const way = now && state.way === "ascending" ? "descending" : "ascending";
      return element(
        "th",
        { scope: "col", "aria-sort": now ? state.way : "none", class: `c-${name}` },
        element("button", { type: "button", onclick: () => sortBy(name, way, true) }, title, element("span", { class: "way", "aria-hidden": "true" }, now ? (state.way === "ascending" ? " ↑" : " ↓") : "")),
      );
    }),
  );
};

const sortBy = (sort, way, fromHead = false) => {
  [state.sort, state.way] = [sort, way];
  found("sort").value = `${sort}:${way}`;
  draw();
  // The button that was pressed was drawn anew: the keyboard stays on it.
  if (fromHead) found("heads").querySelectorAll("button")[COLUMNS.findIndex(([name]) => name === sort)].focus();
};

const draw = () => {
  matching = sorted(lines.map((_, place) => place).filter((place) => matches(lines[place], place)));
  state.shown = PAGE_ROWS;
  found("rows").replaceChildren();
  drawHeads();
  addRows(0, state.shown);
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(state.verdicts.has(button.dataset.verdict)));
  }
  const filtered = state.text || state.verdicts.size || state.family || state.folder;
  const whole = about.complete ? counted(lines.length, "file") : `${counted(lines.length, "file")} of this page`;
  found("status").textContent = filtered ? `${matching.length.toLocaleString("en")} of ${whole}` : whole;
  found("clear").hidden = !filtered;
  if (!matching.length) found("rows").append(element("tr", {}, element("td", { colspan: COLUMNS.length, class: "none" }, "No file matches. Show all files, or change a filter.")));
};

const clear = () => {
  Object.assign(state, { text: "", family: "", folder: "" });
  state.verdicts.clear();
  for (const id of ["q", "by-family", "by-folder"]) found(id).value = "";
  draw();
  found("q").focus();
};

const pickVerdict = (name, only) => {
  const was = state.verdicts.has(name);
  if (only) state.verdicts.clear();
  if (was) state.verdicts.delete(name);
  else state.verdicts.add(name);
  draw();
};

const fillFilters = () => {
  const option = (value, text) => element("option", { value }, text);
  const counts = (test) => lines.filter(test).length;
  const groups = [
    ["towards", "Points to manipulation", (line, at) => line.towards.includes(at)],
    ["judged", "Judged", (line, at) => line.judged.includes(at)],
    ["silent", "Could not be judged", (line, at) => line.verdict < 4 && !line.judged.includes(at)],
  ];
  found("by-family").append(
    option("", "All evidence"),
    ...groups.map(([how, title, test]) =>
      element("optgroup", { label: title }, about.families.map(([, family], at) => [counts((line) => test(line, at)), family, at]).filter(([count]) => count).map(([count, family, at]) => option(`${how}:${at}`, `${family} (${count})`))),
    ),
  );
  const folders = new Map();
  for (const line of lines) folders.set(line.folder, (folders.get(line.folder) || 0) + 1);
  const most = [...folders].sort((a, b) => b[1] - a[1]).slice(0, 300).sort((a, b) => a[0].localeCompare(b[0]));
  found("by-folder").append(option("", "All folders"), ...most.map(([folder, count]) => option(folder, `${folderShown(folder) || "(top folder)"} (${count})`)));
  found("sort").append(...SORTS.map(([sort, way, title]) => option(`${sort}:${way}`, title)));
  const present = about.verdicts.filter((_, at) => lines.some((line) => line.verdict === at));
  found("by-verdict").append(
    ...present.map(([name, title, , symbol]) =>
      element("button", { type: "button", class: `chip v-${name}`, "data-verdict": name, "aria-pressed": "false", onclick: () => pickVerdict(name, false) }, element("span", { class: "symbol", "aria-hidden": "true" }, symbol), ` ${title}`),
    ),
  );
};

const fillTiles = () => {
  const worst = lines.map((_, place) => place).filter((place) => lines[place].verdict === 0 || (lines[place].authenticity !== null && lines[place].authenticity < 0.45));
  const tiles = worst.slice(0, 6).map((place) => {
    const [line, card] = [lines[place], cardOf(place)];
    const shot = card.pictures.find((picture) => picture.kind === "face") || card.pictures[0];
    const folder = folderShown(line.folder);
    return element(
      "li",
      {},
      element(
        "button",
        { type: "button", class: `tile v-${verdictOf(line).name}`, onclick: () => goTo(place) },
        shot ? element("img", { src: shot.src, alt: "" }) : element("span", { class: "no-shot" }, line.kind === "audio" ? "Sound only" : "No picture kept"),
        element("span", { class: "tile-text" }, badge(line), element("bdi", { class: "name" }, line.name), folder ? element("bdi", { class: "folder" }, folder) : "", element("span", { class: "why", dir: "auto" }, line.why)),
        card.timeline && card.timeline.lanes.some((lane) => lane.counts && lane.spans.some((span) => span[2] > 0.05)) ? strip(card.timeline) : "",
      ),
    );
  });
  found("tiles").replaceChildren(...tiles);
  found("suspicious").hidden = !tiles.length;
};

// To a file's card, whatever is filtered.
const goTo = (place) => {
  if (!matching.includes(place)) {
    Object.assign(state, { text: "", family: "", folder: "" });
    state.verdicts.clear();
    for (const id of ["q", "by-family", "by-folder"]) found(id).value = "";
    draw();
  }
  while (!openerOf(place) && state.shown < matching.length) showMore();
  toggle(place, true);
  openerOf(place).focus({ preventScroll: true });
  openerOf(place).scrollIntoView({ block: "start" });
};

const start = () => {
  for (const id of ["filters", "list"]) found(id).hidden = false;
  fillFilters();
  fillTiles();
  draw();
  let waiting = 0;
  found("q").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.text = event.target.value.trim().toLowerCase();
      draw();
    }, lines.length > 1000 ? 150 : 0);
  });
  found("by-family").addEventListener("change", (event) => { state.family = event.target.value; draw(); });
  found("by-folder").addEventListener("change", (event) => { state.folder = event.target.value; draw(); });
  found("sort").addEventListener("change", (event) => sortBy(...event.target.value.split(":")));
  found("filters").addEventListener("submit", (event) => event.preventDefault());
  found("clear").addEventListener("click", clear);
  found("more").querySelector("button").addEventListener("click", showMore);
  for (const button of document.querySelectorAll("button.pick")) {
    button.addEventListener("click", () => {
      pickVerdict(button.dataset.verdict, true);
      found("files").scrollIntoView();
    });
  }
  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) showMore(); }, { rootMargin: "600px" }).observe(found("more"));
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName || "");
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      found("q").focus();
    }
    const row = event.key === "Escape" ? document.activeElement?.closest?.(".card-row, tr.opened") : null;
    if (row) {
      const place = Number((row.classList.contains("card-row") ? row.id : row.querySelector(".opener").id).replace(/\D+/, ""));
      toggle(place, false);
      openerOf(place).focus();
    }
  });
  // On paper nothing can be opened: the cards of the first files that are listed are printed with them.
  addEventListener("beforeprint", () => {
    for (const place of matching.slice(0, PAGE_ROWS)) toggle(place, true);
    for (const one of document.querySelectorAll("details")) one.open = one.open || !one.closest(".card");
  });
  document.documentElement.dataset.ready = "true";
};
start();
