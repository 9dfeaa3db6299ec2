'use strict';
const at = id => document.getElementById(id);
const STATES = {'.': 'wanted', '?': 'asked', h: 'held', v: 'verifying', p: 'proven', a: 'applying'};
const put = (id, text) => { const e = at(id); if (e.textContent !== text) e.textContent = text; };
const bytes = n => n >= 1e9 ? (n / 1e9).toFixed(1) + ' GB' : n >= 1e6 ? (n / 1e6).toFixed(1) + ' MB' : (n / 1e3).toFixed(0) + ' kB';
const time = s => s === null ? '–' : s < 60 ? s + ' s' : s < 3600 ? Math.floor(s / 60) + ' min' : Math.floor(s / 3600) + ' h ' + Math.floor(s / 60 % 60) + ' min';
function rows(id, list, columns) {
  const body = at(id);
  body.replaceChildren(...list.map(item => {
    const row = document.createElement('tr');
    columns(item).forEach((text, n) => {
      const cell = document.createElement(n ? 'td' : 'th');
      if (!n) cell.scope = 'row';
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  }));
}
function cells(s) {
  const counts = {};
  at('cells').replaceChildren(...[...s.window].map((letter, n) => {
    const cell = document.createElement('span');
    const state = STATES[letter] || 'wanted';
    counts[state] = (counts[state] || 0) + 1;
    cell.className = state;
    cell.textContent = letter;
    cell.title = (s.window_first + n) + ' ' + state;
    return cell;
  }));
  const each = Object.values(STATES).map(state => [state, counts[state] || 0]);
  const label = 'Window from height ' + s.window_first + ': ' + each.map(([state, n]) => n + ' ' + state).join(', ');
  at('cells').setAttribute('aria-label', label);
  rows('states', each, ([state, n]) => [state, String(n)]);
}
function show(s) {
  put('outcome', s.outcome_text);
  document.title = s.outcome_text + ' · ' + s.applied + ' · ' + s.chain_id;
  put('waiting', s.waiting || '');
  const bar = at('bar');
  bar.max = Math.max(1, s.target - s.started_at);
  bar.value = Math.max(0, s.applied - s.started_at);
  put('applied', String(s.applied));
  put('target', String(s.target));
  put('proven', String(s.proven));
  put('rate', String(s.blocks_per_second));
  put('eta', time(s.eta_seconds));
  put('bottleneck', s.bottleneck);
  put('buffered', bytes(s.buffered_bytes) + ' of ' + bytes(s.budget_bytes));
  put('base', String(s.base));
  cells(s);
  rows('peers', s.peers, p => [p.id.slice(0, 10), p.address, p.base + '–' + p.height, p.claim,
    p.bytes_per_second === null ? '–' : bytes(p.bytes_per_second) + '/s',
    p.latency_ms === null ? '–' : p.latency_ms.toFixed(1) + ' ms', String(p.owes)]);
  rows('dropped', s.dropped, d => [d.id.slice(0, 10), d.address, d.fault,
    d.banned_seconds === null ? 'no' : time(d.banned_seconds)]);
  rows('stages', s.stages, t => [t.name, String(t.blocks), t.busy_percent + '\u00a0%',
    t.waits_for_work_percent + '\u00a0%', t.waits_for_room_percent + '\u00a0%']);
}
const source = new EventSource('/status.events');
source.onmessage = event => { put('live', 'live'); show(JSON.parse(event.data)); };
source.onerror = () => put('live', 'the node does not answer; trying again');
