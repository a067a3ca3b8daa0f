// The grid of a sweep: one row per prompt, one column per method and seed, filtered by the form.
const data = JSON.parse(document.getElementById("rows").textContent);
const form = document.querySelector("form"), body = document.querySelector("tbody"), head = document.querySelector("thead");
const unique = name => [...new Set(data.map(row => row[name]))];
for (const name of ["prior", "method", "seed"]) {
  const select = form.elements[name];
  for (const value of unique(name)) select.add(new Option(value, value));
}
const node = (tag, properties, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};
function draw() {
  const wanted = name => form.elements[name].value, words = wanted("prompt").toLowerCase();
  const rows = data.filter(row => ["prior", "method", "seed"].every(name => !wanted(name) || String(row[name]) === wanted(name))
    && row.prompt.toLowerCase().includes(words));
  const several = unique("prior").length > 1;
  const column = row => (several ? row.prior + ", " : "") + row.method + ", seed " + row.seed;
  const columns = [...new Set(rows.map(column))], prompts = [...new Set(rows.map(row => row.prompt))];
  const found = new Map(rows.map(row => [row.prompt + "\u0000" + column(row), row]));
  document.body.style.setProperty("--side", wanted("side") + "px");
  const names = ["prompt", ...columns].map(name => node("th", {scope: "col", textContent: name}));
  head.replaceChildren(node("tr", {}, ...names));
  body.replaceChildren(...prompts.map(prompt => node("tr", {}, node("th", {scope: "row", textContent: prompt}),
    ...columns.map(name => { const row = found.get(prompt + "\u0000" + name); return node("td", {}, row ? cell(row) : ""); }))));
  document.getElementById("count").textContent = rows.length + " of " + data.length + " results";
}
function cell(row) {
  if (row.error) return node("span", {className: "missing", textContent: "failed: " + row.error});
  if (!row.image) return node("span", {className: "missing", textContent: "not finished"});
  const image = node("img", {src: encodeURI(row.image), loading: "lazy", alt: row.prompt + ", " + row.method + ", seed " + row.seed});
  const link = node("a", {href: encodeURI(row.image.replace(/[^/]*$/, ""))}, image);
  return node("figure", {}, link, node("figcaption", {textContent: row.calls + " calls"}));
}
form.addEventListener("input", draw);
form.addEventListener("submit", event => event.preventDefault());
draw();
