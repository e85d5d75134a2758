// The page of the server: who is asked for, what is recommended and why, and how the run went.
'use strict';

const K = 10;
const PAUSE = 150; // milliseconds after the last key before a search begins
const RETRY = 2000; // milliseconds between two looks whether the server is back
const byId = (id) => document.getElementById(id);

let history = []; // items that were added by hand
let user = null; // the user that was chosen, whose history the server knows
let asked = 0; // number of the last question, so that an older answer does not replace a newer one

function element(name, text, classes = '') {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function called(item) {
  return item.title || String(item.item);
}

function showProblem(text) {
  byId('problem').textContent = text;
  byId('problem').hidden = !text;
}

async function ask(path, body) {
  const options = body && {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    waitForServer();
    throw new Error('The server does not answer. The page tries again by itself.');
  }
  const answer = await response.json().catch(() => ({ error: `Error ${response.status}.` }));
  if (!response.ok) throw new Error(answer.error || `Error ${response.status}.`);
  return answer;
}

let waiting = false;

function waitForServer() {
  if (waiting) return;
  waiting = true;
  const timer = setInterval(async () => {
    const response = await fetch('healthz').catch(() => null);
    if (!response || !response.ok) return;
    clearInterval(timer);
    waiting = false;
    showProblem('');
    showRun();
    update();
  }, RETRY);
}

// A field that finds things while one types. `search(text)` returns them, and `choose(thing)` is
// called with the one that was chosen.
function searchField(id, search, label, choose) {
  const input = byId(id);
  const list = byId(`${id}-found`);
  let found = [];
  let marked = -1;
  let timer = 0;
  let latest = 0;

  function close() {
    clearTimeout(timer);
    latest += 1;
    list.hidden = true;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
  }

  function mark(place) {
    marked = place;
    [...list.children].forEach((row, number) => {
      row.setAttribute('aria-selected', String(number === place));
      if (number === place) {
        row.scrollIntoView({ block: 'nearest' });
        input.setAttribute('aria-activedescendant', row.id);
      }
    });
  }

  function take(place) {
    const thing = found[place];
    close();
    input.value = '';
    choose(thing);
  }

  async function look() {
    latest += 1;
    const number = latest;
    try {
      const things = await search(input.value);
      if (number !== latest) return;
      found = things;
    } catch (error) {
      showProblem(error.message);
      return;
    }
    list.replaceChildren(
      ...found.map((thing, place) => {
        const row = element('li', label(thing));
        row.id = `${id}-found-${place}`;
        row.setAttribute('role', 'option');
        row.addEventListener('mousedown', (event) => {
          event.preventDefault(); // the field keeps the focus
          take(place);
        });
        return row;
      }),
    );
    if (!found.length) list.append(element('li', 'Nothing found', 'none'));
    list.hidden = false;
    input.setAttribute('aria-expanded', 'true');
    mark(found.length ? 0 : -1);
  }

  input.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE);
  });
  input.addEventListener('focus', look);
  input.addEventListener('blur', close);
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') close();
    if (list.hidden || !found.length) return;
    if (event.key === 'ArrowDown') mark((marked + 1) % found.length);
    else if (event.key === 'ArrowUp') mark((marked + found.length - 1) % found.length);
    else if (event.key === 'Enter') take(marked);
    else return;
    event.preventDefault();
  });
}

function showHistory(items) {
  byId('history').replaceChildren(
    ...items.map((item, place) => {
      const row = element('li', called(item));
      if (user === null) {
        const remove = element('button', '×');
        remove.type = 'button';
        remove.setAttribute('aria-label', `Remove ${called(item)}`);
        remove.addEventListener('click', () => {
          history.splice(place, 1);
          update();
        });
        row.append(remove);
      }
      return row;
    }),
  );
  const empty = user === null && !items.length;
  byId('clear').hidden = empty;
  byId('hint').hidden = !empty;
  byId('history-title').textContent =
    user === null ? 'History, the oldest first' : `History of user ${user}, the oldest first`;
  byId('history').scrollTop = byId('history').scrollHeight;
}

function showLists(lists) {
  byId('lists').replaceChildren(
    ...lists.map((list) => {
      const column = element('article', undefined, 'list');
      column.append(element('h3', list.name));
      const rows = element('ol');
      for (const item of list.items) {
        const row = element('li');
        row.dataset.item = String(item.item);
        row.append(element('span', called(item)));
        if (item.score !== null) row.append(element('span', item.score.toFixed(2), 'score'));
        if (item.because) {
          row.append(element('span', `near ${called(item.because)}`, 'because'));
        }
        row.addEventListener('mouseenter', () => markSame(row.dataset.item));
        row.addEventListener('mouseleave', () => markSame(null));
        rows.append(row);
      }
      column.append(rows);
      return column;
    }),
  );
}

function markSame(item) {
  for (const row of document.querySelectorAll('.list li')) {
    row.classList.toggle('same', row.dataset.item === item);
  }
}

async function update() {
  asked += 1;
  const number = asked;
  showProblem('');
  if (user === null && !history.length) {
    showHistory([]);
    byId('answers').hidden = true;
    return;
  }
  if (user === null) showHistory(history);
  // Until the answer is there, the page shows that its lists are those of the history before.
  byId('answers').setAttribute('aria-busy', 'true');
  const who = user === null ? { history: history.map((item) => item.item) } : { user };
  try {
    const answer = await ask('compare', { ...who, k: K });
    if (number !== asked) return;
    showHistory(answer.history);
    showLists(answer.lists);
    byId('answers').hidden = false;
    byId('answers').setAttribute('aria-busy', 'false');
  } catch (error) {
    if (number === asked) showProblem(error.message);
  }
}

function showTests(run) {
  const rows = Object.entries(run.tests);
  byId('test-note').textContent = rows.length
    ? `Items that were held out of the training, rule '${run.rule}'. Coverage is the share of all ` +
      'items that is recommended to anybody, popularity the mean number of training events of a ' +
      'recommended item, and diversity the mean distance of two recommended items in their attributes.'
    : 'The run has not been tested yet.';
  if (!rows.length) return;
  const head = element('tr');
  head.append(element('th', ''), ...run.metrics.map((metric) => element('th', metric)));
  const body = element('tbody');
  for (const [name, values] of rows) {
    const row = element('tr');
    row.append(element('th', name));
    for (const metric of run.metrics) row.append(element('td', figure(metric, values[metric])));
    body.append(row);
  }
  const top = element('thead');
  top.append(head);
  byId('tests').replaceChildren(top, body);
}

function figure(metric, value) {
  if (value === undefined) return '';
  return value.toFixed(metric.startsWith('popularity') ? 1 : 4);
}

function drawing(name, attributes, text) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Draws {name: [[epoch, value], ...]} as wide as the page; the ensemble is last, above the others.
function showCurves(curves) {
  const names = Object.keys(curves).sort((a, b) => (a === 'ensemble') - (b === 'ensemble'));
  if (!names.length) return;
  const points = names.flatMap((name) => curves[name]);
  const epochs = points.map((point) => point[0]);
  const first = Math.min(...epochs);
  const last = Math.max(...epochs, first + 1);
  const highest = 1.1 * Math.max(...points.map((point) => point[1]), 1e-6);
  const width = Math.min(byId('curves').clientWidth, 720);
  const [height, left, right, bottom, top] = [240, 48, 80, 36, 8];
  const x = (epoch) => left + ((epoch - first) / (last - first)) * (width - left - right);
  const y = (value) => height - bottom - (value / highest) * (height - bottom - top);
  const canvas = drawing('svg', {
    width,
    height,
    role: 'img',
    'aria-label': 'Validation NDCG@10 of the ensemble and of each network by epoch',
  });
  for (let line = 0; line <= 4; line += 1) {
    const value = (highest * line) / 4;
    canvas.append(
      drawing('line', { class: 'axis', x1: left, x2: width - right, y1: y(value), y2: y(value) }),
      drawing('text', { x: left - 6, y: y(value) + 4, 'text-anchor': 'end' }, value.toFixed(3)),
    );
  }
  for (const epoch of [first, last]) {
    canvas.append(
      drawing('text', { x: x(epoch), y: height - bottom + 16, 'text-anchor': 'middle' }, epoch),
    );
  }
  const middle = x((first + last) / 2);
  canvas.append(drawing('text', { x: middle, y: height - 4, 'text-anchor': 'middle' }, 'epoch'));
  for (const name of names) {
    const whole = name === 'ensemble' ? ' whole' : '';
    const line = curves[name].map(([epoch, value]) => `${x(epoch)},${y(value)}`).join(' ');
    canvas.append(drawing('polyline', { class: `curve${whole}`, points: line }));
  }
  // The names stand at the ends of their curves, at least a line apart.
  let above = -Infinity;
  const ends = names.map((name) => [y(curves[name].at(-1)[1]), name]).sort((a, b) => a[0] - b[0]);
  for (const [end, name] of ends) {
    above = Math.max(end + 4, above + 14);
    const whole = name === 'ensemble' ? 'whole' : '';
    canvas.append(drawing('text', { class: whole, x: width - right + 6, y: above }, name));
  }
  byId('curves').replaceChildren(canvas);
}

let curves = {};
window.addEventListener('resize', () => showCurves(curves));

async function showRun() {
  try {
    const run = await ask('run');
    const standIn = run.data.stand_in ? ' (stand-in data)' : '';
    document.title = `${run.name}: emkd-jax`;
    byId('name').textContent = run.name;
    byId('about').textContent =
      `${run.data.name}${standIn}: ${run.data.users.toLocaleString('en')} users, ` +
      `${run.data.items.toLocaleString('en')} items, epoch ${run.epoch}`;
    showTests(run);
    curves = run.curves;
    showCurves(curves);
  } catch (error) {
    showProblem(error.message);
  }
}

searchField(
  'user',
  async (text) => (await ask(`users?search=${encodeURIComponent(text)}`)).users,
  String,
  (chosen) => {
    user = chosen;
    history = [];
    update();
  },
);
searchField(
  'item',
  async (text) => (await ask(`items?search=${encodeURIComponent(text)}`)).items,
  called,
  (chosen) => {
    user = null;
    history.push(chosen);
    update();
  },
);
byId('clear').addEventListener('click', () => {
  user = null;
  history = [];
  update();
});
showRun();
