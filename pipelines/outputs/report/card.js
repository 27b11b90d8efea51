// The card of one file, made when it is opened.
const words = about.words;
const figureOf = (picture) => {
  const image = element("img", { src: picture.src, alt: picture.alt, width: picture.w || null, height: picture.h || null });
  const frame = element("div", { class: "shot" }, image);
  if (picture.box) {
    // Lines of one width on the screen, whatever the size of the picture.
    const [x0, y0, x1, y1] = picture.box;
    const svg = d3.create("svg").attr("viewBox", "0 0 1 1").attr("preserveAspectRatio", "none").attr("aria-hidden", "true");
    for (const kind of ["halo", "box"]) {
      svg.append("rect").attr("class", kind).attr("x", x0).attr("y", y0).attr("width", x1 - x0).attr("height", y1 - y0);
    }
    frame.append(svg.node());
  }
  const what = picture.kind === "face" ? "Face" : "Picture";
  return element("figure", { class: picture.kind }, frame, element("figcaption", {}, `${what} at ${clock(picture.at)}`));
};

const part = (title, ...children) => {
  const filled = children.flat(Infinity).filter((child) => child);
  return filled.length ? element("section", {}, element("h4", {}, title), filled) : null;
};

const listed = (items, kind = "") => (items.length ? element("ul", { class: kind }, items.map((item) => element("li", {}, item))) : null);

const reasonItems = (reasons) =>
  reasons.map((reason) => [
    `${reason.text}. `,
    element("span", { class: "meaning" }, reason.hint ? `${words.hint} ` : "", element("code", {}, reason.detector)),
  ]);

const pairs = (rows) => element("dl", { class: "facts" }, rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", { dir: "auto" }, value))));

const tableOf = (heads, rows) =>
  element(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, rows.map((row) => element("tr", {}, row.map((cell) => element("td", {}, String(cell)))))),
    ),
  );

const folded = (title, ...children) => element("details", {}, element("summary", {}, title), children);

const numbersOf = (card) => {
  const said = card.numbers.map(([detector, family, logOdds, logits, calibrated, hasSay]) => [
    detector,
    family,
    `${logOdds > 0 ? "+" : ""}${logOdds}${calibrated ? "" : " raw"}`,
    logits,
    hasSay ? "yes" : "no",
  ]);
  return folded(
    "Numbers, and how to get all of them",
    said.length
      ? [
          element("p", { class: "meaning" }, words.logOdds),
          tableOf(["Detector", "Family", "Log-odds", "Items judged", "Counts"], said),
        ]
      : "",
    card.machine.length ? [element("p", { class: "meaning" }, words.machine), listed(card.machine, "machine")] : "",
    element("pre", {}, element("code", {}, about.query.replace("{id}", card.id))),
  );
};

const limitsOf = (card) => {
  const known = card.numbers.map(([name]) => [name, about.detectors[name]]).filter(([, detector]) => detector);
  return known.length
    ? folded(
        `${words.blind}, and the licences of their models`,
        tableOf(["Detector", "Cannot see", "Licence"], known.map(([name, detector]) => [name, detector.blind, detector.licence])),
      )
    : "";
};

const spansOf = (data) => {
  const rows = data.lanes.flatMap((lane) => lane.spans.map(([start, end, logOdds]) => [start, end, lane, logOdds]));
  const worst = rows.sort((a, b) => b[3] - a[3]).slice(0, 40);
  const cells = worst.map(([start, end, lane, logOdds]) => [
    `${clock(start)}-${clock(end)}`,
    `${lane.title} (${lane.detector})`,
    logOdds > 0.05 ? "to manipulation" : logOdds < -0.05 ? "away from it" : "neither way",
    `${logOdds > 0 ? "+" : ""}${logOdds}${lane.calibrated ? "" : " raw"}`,
  ]);
  return folded("The timeline as a table", tableOf(["When", "What", "Points", "Log-odds"], cells));
};

const evidenceOf = (line, card) => {
  const shots = card.pictures.length ? element("div", { class: "shots" }, card.pictures.map(figureOf)) : null;
  const without = shots || line.kind === "audio" ? "" : element("p", { class: "meaning" }, about.noPictures);
  const chart = card.timeline
    ? [
        element("div", { class: "chart" }, timeline(card.timeline, line.name)),
        element(
          "p",
          { class: "key" },
          element("span", { class: "k towards" }, words.above),
          element("span", { class: "k away" }, words.below),
          element("span", { class: "k silent" }, words.couldNot),
          element("span", { class: "k unseen" }, words.unseen),
        ),
        card.timeline.unseen_text ? element("p", { class: "meaning" }, card.timeline.unseen_text) : "",
        without,
        spansOf(card.timeline),
      ]
    : [without, element("p", { class: "meaning" }, card.cut ? "This page has no room for the timeline of this file; the query under Numbers gives it." : words.noTimeline)];
  return [part("The moments behind it", shots), part(words.timeline, chart)];
};

const makeCard = (place) => {
  const [line, card] = [lines[place], cardOf(place)];
  const verdict = verdictOf(line);
  const head = element(
    "header",
    {},
    badge(line),
    element("p", { class: "lead" }, `${verdict.sentence[0].toUpperCase()}${verdict.sentence.slice(1)}. `, element("code", {}, verdict.name)),
    element("p", { class: "uri" }, element("bdi", {}, card.uri)),
  );
  if (!card.numbers) {
    const told = [...card.told, line.why].filter((text, at, all) => text && all.indexOf(text) === at);
    return element(
      "article",
      { class: "card", "aria-label": line.name },
      head,
      part("Why", listed(told.map((text) => `${text}`)), element("p", { class: "meaning" }, `${words.word} `, element("code", {}, card.word))),
      part(words.facts, pairs(card.facts)),
    );
  }
  const [counting, hints] = [card.towards.filter((r) => !r.hint), card.towards.filter((r) => r.hint)];
  const credentials = card.credentials.map(([text, saw]) => [`${text} `, element("span", { class: "meaning", dir: "auto" }, saw)]);
  const declared = card.declared.map(([text, saw]) => [`${text} `, element("span", { class: "meaning", dir: "auto" }, saw)]);
  return element(
    "article",
    { class: "card", "aria-label": line.name },
    head,
    element(
      "div",
      { class: "columns" },
      part(words.towards, listed(reasonItems([...counting, ...hints]), "for") || element("p", {}, words.nothing)),
      part(words.against, listed(reasonItems(card.against), "against") || element("p", {}, words.nothing)),
      part(
        words.silent,
        listed(card.silent.map(([text, word]) => [`${text}. `, element("code", {}, word)])),
        card.neither.length ? listed(reasonItems(card.neither)) : null,
        listed(card.notes.map((text) => element("span", { dir: "auto" }, text))),
      ),
    ),
    [...card.towards, ...card.against, ...card.neither].some((reason) => reason.hint)
      ? element("p", { class: "meaning after" }, words.hints)
      : "",
    evidenceOf(line, card),
    element(
      "div",
      { class: "columns" },
      part(words.facts, pairs(card.facts)),
      part(words.credentials, listed(credentials) || element("p", {}, words.noCredentials)),
      declared.length ? part(words.declared, listed(declared)) : null,
    ),
    limitsOf(card),
    numbersOf(card),
  );
};
