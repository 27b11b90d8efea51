"use strict";
// Elements are made by name, and text is only ever set as text: nothing from a file is parsed as HTML.
const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
};

const parsed = (id) => JSON.parse(document.getElementById(id).textContent);
const about = parsed("about");
const lines = parsed("lines");

// Cards stand in blocks; a block is parsed when one of its files is first looked at.
const blocks = new Map();
const cardOf = (place) => {
  const number = Math.floor(place / about.blockFiles);
  if (!blocks.has(number)) blocks.set(number, parsed(`cards-${number}`));
  return blocks.get(number)[place % about.blockFiles];
};

const verdictOf = (line) => {
  const [name, title, sentence, symbol] = about.verdicts[line.verdict];
  return { name, title, sentence, symbol };
};

const badge = (line) => {
  const verdict = verdictOf(line);
  const symbol = element("span", { class: "symbol", "aria-hidden": "true" }, verdict.symbol);
  return element("span", { class: `badge v-${verdict.name}` }, symbol, ` ${verdict.title}`);
};

const clock = (seconds) => {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
};

const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

const folderShown = (folder) => {
  const root = about.folder;
  if (folder === root) return "";
  return root && folder.startsWith(root.endsWith("/") ? root : `${root}/`) ? folder.slice(root.length).replace(/^\//, "") : folder;
};
