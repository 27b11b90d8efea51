// The chart of one file: a lane for each detector over the length of the film, and above them what was looked at at all.
const timeline = (data, name) => {
  const [right, laneHeight, stripHeight, top, axisHeight] = [12, 34, 14, 4, 26];
  // On a phone a chart of its own size: a wide one would have to be scrolled or could not be read.
  const narrow = innerWidth < 740;
  const [left, width] = narrow ? [112, 380] : [150, 900];
  const strips = [["Seen", data.seen], ["Heard", data.heard]].filter(([, spans]) => spans.length);
  const height = top + strips.length * (stripHeight + 10) + data.lanes.length * (laneHeight + 8) + axisHeight;
  const x = d3.scaleLinear([0, data.length], [left, width - right]);
  const tall = d3.scaleLinear([0, 4], [0, laneHeight / 2 - 1]).clamp(true);
  const words = data.lanes.map((lane) => `${lane.title} (${lane.detector}) ${lane.text}`);
  const svg = d3
    .create("svg")
    .attr("class", "timeline")
    .attr("viewBox", [0, 0, width, height])
    .attr("role", "img")
    .attr("aria-label", `Evidence over the length of ${name}. ${words.join(". ")}. ${data.unseen_text}`);
  const hatch = `hatch-${(timeline.made = (timeline.made || 0) + 1)}`;
  svg
    .append("defs")
    .append("pattern")
    .attr("id", hatch)
    .attr("width", 6)
    .attr("height", 6)
    .attr("patternUnits", "userSpaceOnUse")
    .append("path")
    .attr("class", "hatch")
    .attr("d", "M-1,1 l2,-2 M0,6 l6,-6 M5,7 l2,-2");
  const wide = ([start, end]) => Math.max(1.5, x(end) - x(start));
  const background = (group, height_) =>
    group
      .append("rect")
      .attr("class", "unseen")
      .attr("x", x(0))
      .attr("width", x(data.length) - x(0))
      .attr("height", height_)
      .attr("fill", `url(#${hatch})`);
  const label = (group, text, y, kind) =>
    group.append("text").attr("class", kind).attr("x", left - 10).attr("y", y).attr("text-anchor", "end").text(text);

  let y = top;
  for (const [title, spans] of strips) {
    const group = svg.append("g").attr("transform", `translate(0,${y})`);
    label(group, title, stripHeight - 3, "lane-name");
    background(group, stripHeight).append("title").text("Nobody looked at this");
    group
      .selectAll("rect.seen")
      .data(spans)
      .join("rect")
      .attr("class", "seen")
      .attr("x", (span) => x(span[0]))
      .attr("width", wide)
      .attr("y", (span) => stripHeight * (1 - span[2]))
      .attr("height", (span) => stripHeight * span[2])
      .append("title")
      .text((span) => `${clock(span[0])}-${clock(span[1])}: ${title.toLowerCase()}${span[2] < 1 ? `, ${Math.round(100 * span[2])} % of it` : ""}`);
    y += stripHeight + 10;
  }
  for (const lane of data.lanes) {
    const group = svg.append("g").attr("transform", `translate(0,${y})`).attr("class", lane.counts === false ? "lane hint" : "lane");
    label(group, lane.title, laneHeight / 2 - 1, "lane-name");
    label(group, `${lane.detector}${lane.counts === false ? " (hint)" : ""}`, laneHeight / 2 + 12, "lane-detector");
    background(group, laneHeight).append("title").text("This detector did not look here");
    group
      .selectAll("rect.silent")
      .data(lane.silent)
      .join("rect")
      .attr("class", "silent")
      .attr("x", (span) => x(span[0]))
      .attr("width", wide)
      .attr("height", laneHeight)
      .append("title")
      .text((span) => `${clock(span[0])}-${clock(span[1])}: could not judge, ${span[2]}`);
    group
      .selectAll("rect.ground")
      .data(lane.spans)
      .join("rect")
      .attr("class", "ground")
      .attr("x", (span) => x(span[0]))
      .attr("width", wide)
      .attr("height", laneHeight);
    group
      .selectAll("rect.said")
      .data(lane.spans)
      .join("rect")
      .attr("class", (span) => `said ${span[2] > 0.05 ? "towards" : span[2] < -0.05 ? "away" : "neither"}`)
      .attr("x", (span) => x(span[0]))
      .attr("width", wide)
      .attr("y", (span) => laneHeight / 2 - (span[2] > 0 ? Math.max(1.5, tall(span[2])) : 0))
      .attr("height", (span) => Math.max(1.5, tall(Math.abs(span[2]))))
      .append("title")
      .text((span) => `${clock(span[0])}-${clock(span[1])}: points ${span[2] > 0.05 ? "to manipulation" : span[2] < -0.05 ? "away from manipulation" : "neither way"}`);
    group.append("line").attr("class", "middle").attr("x1", x(0)).attr("x2", x(data.length)).attr("y1", laneHeight / 2).attr("y2", laneHeight / 2);
    y += laneHeight + 8;
  }
  const axis = d3.axisBottom(x).ticks(narrow ? 4 : 7).tickFormat((seconds) => (data.length < 8 ? `${seconds} s` : clock(seconds))).tickSizeOuter(0);
  svg.append("g").attr("class", "axis").attr("transform", `translate(0,${y - 2})`).call(axis);
  return svg.node();
};

// The same in one line, for a tile: where something points to manipulation, where not, and where nobody looked.
const strip = (data) => {
  const x = d3.scaleLinear([0, data.length], [0, 300]);
  const svg = d3.create("svg").attr("class", "strip").attr("viewBox", "0 0 300 10").attr("preserveAspectRatio", "none").attr("aria-hidden", "true");
  const draw = (spans, kind) =>
    svg.selectAll(null).data(spans).join("rect").attr("class", kind).attr("x", (s) => x(s[0])).attr("width", (s) => Math.max(1.5, x(s[1]) - x(s[0]))).attr("height", 10);
  svg.append("rect").attr("class", "nothing").attr("width", 300).attr("height", 10);
  draw([...data.seen, ...data.heard], "seen");
  draw(data.lanes.filter((lane) => lane.counts).flatMap((lane) => lane.spans.filter((span) => span[2] > 0.05)), "towards");
  return svg.node();
};
