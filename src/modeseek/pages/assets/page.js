/* What a page does: films (frames under a slider), charts that read out their values, sortable tables, copy buttons. No network, no library. */
'use strict';
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = (id) => JSON.parse($('#' + id).textContent);

/* Films. `.film` shows one frame of a list; films with the same data-group move together, by their share of the way through. */
const films = $$('.film').map((root) => ({ root, ...data(root.dataset.film), group: root.dataset.group, image: $('img', root) }));
const bars = $$('.bar[data-group]');

function show(group, share) {
  let label = '';
  for (const film of films.filter((f) => f.group === group)) {
    const k = Math.round(share * (film.frames.length - 1));
    film.image.src = film.frames[k];
    film.root.dataset.frame = k;
    const caption = $('.at', film.root);
    if (caption) caption.textContent = film.labels[k];
    label = label || film.labels[k];
    if (film.steps) mark(film.root.closest('main') || document, film.steps[k], share);
  }
  for (const bar of bars.filter((b) => b.dataset.group === group)) {
    $('input', bar).value = share;
    $('output', bar).textContent = label;
  }
}

for (const bar of bars) {
  const slider = $('input', bar), button = $('button', bar), group = bar.dataset.group;
  const count = Math.max(...films.filter((f) => f.group === group).map((f) => f.frames.length));
  slider.step = count > 1 ? 1 / (count - 1) : 1;
  slider.addEventListener('input', () => show(group, Number(slider.value)));
  let timer = 0;
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = 'Play'; button.setAttribute('aria-pressed', 'false'); };
  button.addEventListener('click', () => {
    if (timer) return stop();
    if (!bar.dataset.loop && Number(slider.value) >= 1) show(group, 0);
    button.textContent = 'Pause';
    button.setAttribute('aria-pressed', 'true');
    timer = setInterval(() => {
      const next = Number(slider.value) + Number(slider.step);
      if (next > 1 + 1e-9) return bar.dataset.loop ? show(group, 0) : stop();
      show(group, Math.min(1, next));
    }, 110);
  });
  show(group, Number(slider.value));
}

/* Charts. The SVG is complete without this; here it reads out the values under the pointer. */
function mark(root, step, share) {
  for (const chart of $$('.chart', root)) {
    const d = chart.shape, line = $('.now', chart);
    if (!d || !line) continue;
    const x = chart.dataset.by === 'share' ? share * d.x1 : step;
    const px = d.left + (x - d.x0) / Math.max(1e-12, d.x1 - d.x0) * d.width;
    line.setAttribute('x1', px); line.setAttribute('x2', px);
    line.style.display = px < d.left || px > d.left + d.width + 1 ? 'none' : '';
  }
}

for (const chart of $$('.chart')) {
  const d = chart.shape = data(chart.dataset.chart), svg = $('svg', chart), rule = $('.rule', chart), reading = $('.reading', chart);
  const idle = reading.textContent;
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect();
    const px = (event.clientX - box.left) / box.width * d.full;
    const x = d.x0 + (px - d.left) / d.width * (d.x1 - d.x0);
    const words = [];
    let at = x;
    for (const s of d.series) {
      let k = 0;
      while (k + 1 < s.x.length && Math.abs(s.x[k + 1] - x) <= Math.abs(s.x[k] - x)) k++;
      if (s.x.length) { at = s.x[k]; words.push((s.name ? s.name + ' ' : '') + Number(s.y[k].toPrecision(4))); }
    }
    const place = d.left + (at - d.x0) / Math.max(1e-12, d.x1 - d.x0) * d.width;
    rule.setAttribute('x1', place); rule.setAttribute('x2', place); rule.style.display = '';
    reading.textContent = `${d.label} ${Number(at.toPrecision(6))}: ` + words.join(' · ');
  });
  svg.addEventListener('pointerleave', () => { rule.style.display = 'none'; reading.textContent = idle; });
}
for (const bar of bars) show(bar.dataset.group, Number($('input', bar).value));

/* Tables. A column sorts by data-value where its cells have one, else as text; empty cells stay last. */
for (const table of $$('table.sortable')) {
  $$('th', table).forEach((head, column) => {
    const button = $('button', head);
    if (!button) return;
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') === 'ascending';
      $$('th', table).forEach((other) => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const body = $('tbody', table), sign = down ? -1 : 1;
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].map((row, k) => ({ row, k, value: key(row) }));
      rows.sort((a, b) => {
        if ((a.value === '') !== (b.value === '')) return a.value === '' ? 1 : -1;
        const x = Number(a.value), y = Number(b.value);
        const order = Number.isNaN(x) || Number.isNaN(y) ? a.value.localeCompare(b.value) : x - y;
        return sign * order || a.k - b.k;
      });
      body.append(...rows.map((r) => r.row));
    });
  });
}

for (const button of $$('button[data-copy]')) {
  button.addEventListener('click', async () => {
    const text = $('pre', button.parentElement).textContent;
    try { await navigator.clipboard.writeText(text); } catch {
      const range = document.createRange();
      range.selectNodeContents($('pre', button.parentElement));
      getSelection().removeAllRanges(); getSelection().addRange(range);
      document.execCommand('copy');
    }
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy'; }, 1500);
  });
}
for (const button of $$('button[data-all]')) {
  button.addEventListener('click', () => {
    const on = $('#' + button.dataset.all).classList.toggle('all');
    button.textContent = on ? 'Show only what differs' : 'Show all settings';
  });
}
