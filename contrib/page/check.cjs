// node check.cjs BROWSER LIVE_PAGE [DIRECTORY]: see check.sh.
'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { spawn } = require('node:child_process');
const { createInterface } = require('node:readline');
const { chromium } = require('playwright-core');
const AXE = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

const [browserPath, program, shots] = process.argv.slice(2);
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const WIDE = { width: 1280, height: 900 };
const PHONE = { width: 320, height: 640 };
const say = text => console.log('page: ' + text);

// Everything that the page does wrong while it is looked at.
function watched(page, origin) {
  const wrong = [];
  page.on('console', m => { if (['error', 'warning'].includes(m.type())) wrong.push('console: ' + m.text()); });
  page.on('pageerror', error => wrong.push('script: ' + error.message));
  page.on('dialog', dialog => { wrong.push('dialog: ' + dialog.message()); dialog.dismiss(); });
  page.on('request', r => { if (new URL(r.url()).origin !== origin) wrong.push('foreign: ' + r.url()); });
  page.on('response', r => { if (r.status() >= 400) wrong.push(r.status() + ' ' + r.url()); });
  return wrong;
}

async function violations(page) {
  await page.evaluate(AXE);
  const tags = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
  const found = await page.evaluate(values => axe.run(document, { runOnly: { type: 'tag', values } }), tags);
  assert.ok(found.passes.length > 10, 'axe has looked at something');
  return found.violations.map(v => v.id + ': ' + v.nodes.map(n => n.target + ' ' + n.failureSummary).join('; '));
}

const applied = page => page.locator('#applied').textContent().then(Number);

// It lives, and shows who lied, as text.
async function lives(page) {
  await page.waitForFunction(() => document.getElementById('live').textContent === 'live');
  for (let turn = 0; turn < 2; turn++) {
    const before = await applied(page);
    await page.waitForFunction(n => Number(document.getElementById('applied').textContent) > n, before);
  }
  const verdict = await page.locator('#dropped').textContent();
  assert.match(verdict, /<img src=x onerror=alert\(1\)>/, 'text from outside is shown as it is');
  const ban = await page.locator('#dropped td:last-child').textContent();
  assert.match(ban, /^\d+ (s|min|h)/, 'the liar is banned: ' + ban);
  assert.equal(await page.locator('img').count(), 0);
  assert.ok(await page.locator('#cells span').count() > 0, 'the window has cells');
  say('loads, lives, shows the verdict: ' + verdict);
}

// The same in each colour scheme and width.
async function accessible(page) {
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    for (const [name, size] of Object.entries({ wide: WIDE, phone: PHONE })) {
      await page.setViewportSize(size);
      assert.deepEqual(await violations(page), [], `axe, ${colorScheme}, ${name}`);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      assert.ok(over <= 0, `${name}: ${over} px wider than the screen`);
      if (shots) await page.screenshot({ path: path.join(shots, `page-${name}-${colorScheme}.png`), fullPage: true });
    }
  }
  await page.keyboard.press('Tab');
  const outline = () => getComputedStyle(document.activeElement).outlineStyle;
  assert.equal(await page.evaluate(outline), 'solid', 'the focus is visible');
  say('axe finds nothing, light and dark, on 1280 and 320 px; nothing is wider than the screen');
}

async function withoutScript(browser, origin) {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const page = await context.newPage();
  const wrong = watched(page, origin);
  await page.goto(origin + '/');
  assert.ok(await applied(page) > 0);
  assert.ok(await page.locator('#peers tr').count() > 0);
  assert.deepEqual(wrong, []);
  await context.close();
  say('has its figures without a script');
}

async function main() {
  const node = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
  const home = fs.mkdtempSync(path.join(os.tmpdir(), 'page-'));
  let context;
  try {
    const [address] = await Promise.race([
      require('node:events').once(createInterface({ input: node.stdout }), 'line'),
      require('node:events').once(node, 'exit').then(() => { throw new Error('live_page has ended'); }),
    ]);
    const origin = new URL(address).origin;
    context = await chromium.launchPersistentContext(home,
      { executablePath: browserPath, headless: true, args: FLAGS, viewport: WIDE });
    context.setDefaultTimeout(20000);
    const page = await context.newPage();
    const wrong = watched(page, origin);
    await page.goto(address);
    await lives(page);
    await accessible(page);
    await withoutScript(context.browser(), origin);
    node.stdin.write('\n');
    await page.waitForFunction(() => document.getElementById('outcome').textContent.startsWith('Reached'));
    assert.match(await page.title(), /^Reached/);
    assert.deepEqual(await violations(page), [], 'axe, at the end');
    assert.deepEqual(wrong, [], 'while it was looked at');
    say('shows the end without a reload; no error, no foreign host');
  } finally {
    if (context) await context.close();
    node.stdin.end();
    fs.rmSync(home, { recursive: true, force: true });
  }
}

main().catch(error => { console.error('page: ' + (error.stack || error)); process.exitCode = 1; });
