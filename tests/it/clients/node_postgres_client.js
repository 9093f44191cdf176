// node-postgres against the URL in the first argument. Every check throws; silence is success.
const assert = require('node:assert/strict');
const { pipeline } = require('node:stream/promises');
const { Readable, Writable } = require('node:stream');
const { Client, Pool } = require('pg');
const copy = require('pg-copy-streams');

const url = process.argv[2];

async function connected(options = {}) {
  const client = new Client({ connectionString: url, ...options });
  await client.connect();
  return client;
}

const one = async (client, ...query) => Object.values((await client.query(...query)).rows[0])[0];

async function transactions() {
  const c = await connected();
  assert.equal(await one(c, 'SELECT name FROM numbers WHERE id = $1', [3]), 'number 3');
  await c.query('BEGIN');
  await c.query('INSERT INTO kv VALUES ($1, $2)', [90001, 1]);
  await assert.rejects(c.query('SELECT 1/0'), { code: '22012' });
  await assert.rejects(c.query('SELECT 1'), { code: '25P02' });
  await c.query('ROLLBACK');
  assert.equal(await one(c, 'SELECT count(*)::int FROM kv WHERE id = 90001'), 0);
  await c.query('BEGIN');
  await c.query('INSERT INTO kv VALUES (90001, 1)');
  await c.query('COMMIT');
  assert.equal(await one(c, 'SELECT count(*)::int FROM kv WHERE id = $1', [90001]), 1);
  await c.query('DELETE FROM kv WHERE id = 90001');
  await c.query('BEGIN READ ONLY');
  assert.equal(await one(c, 'SELECT count(*)::int FROM numbers'), 1000);
  await assert.rejects(c.query('INSERT INTO kv VALUES (90002, 1)'), { code: '25006' });
  await c.query('ROLLBACK');
  const many = await c.query('SELECT 1 AS a; SELECT 2 AS a; SELECT 3 AS a');
  assert.deepEqual(many.map((result) => result.rows[0].a), [1, 2, 3]);
  await c.end();
}

async function prepared() {
  const c = await connected();
  for (let id = 1; id < 50; id++) {
    const named = { name: 'number-by-id', text: 'SELECT name FROM numbers WHERE id = $1', values: [id] };
    assert.equal(await one(c, named), `number ${id}`);
  }
  for (let i = 0; i < 130; i++) {
    assert.equal(await one(c, { name: `plus-${i}`, text: `SELECT ${i} + $1::int`, values: [1] }), i + 1);
  }
  // Sent without waiting for one another.
  const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => one(c, 'SELECT $1::int * 2', [i])));
  assert.deepEqual(answers, Array.from({ length: 50 }, (_, i) => i * 2));
  await c.end();
}

async function copies() {
  const c = await connected();
  let text = '';
  const sink = new Writable({ write(chunk, _, done) { text += chunk; done(); } });
  await pipeline(c.query(copy.to('COPY (SELECT id, name FROM numbers WHERE id <= 100 ORDER BY id) TO STDOUT')), sink);
  assert.equal(text.split('\n')[99], '100\tnumber 100');
  await c.query('BEGIN');
  const rows = Readable.from((function* () { for (let i = 0; i < 5000; i++) yield `${91000 + i}\t${i}\n`; })());
  await pipeline(rows, c.query(copy.from('COPY kv FROM STDIN')));
  assert.equal(await one(c, 'SELECT count(*)::int FROM kv WHERE id >= 91000 AND id < 96000'), 5000);
  await c.query('ROLLBACK');
  await assert.rejects(pipeline(Readable.from(['1\t1\n']), c.query(copy.from('COPY kv FROM STDIN'))), { code: '23505' });
  assert.equal(await one(c, "SELECT 'after'"), 'after');
  await c.end();
}

async function cancels() {
  const [c, other] = [await connected(), await connected()];
  const sleeping = assert.rejects(c.query('SELECT pg_sleep(60)'), { code: '57014' });
  // The driver's own cancel request goes out on a connection of its own, with this session's key.
  const wait = async () => {
    const running = "SELECT count(*)::int FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
    for (let i = 0; i < 1000 && (await one(other, `/* pgweir: primary */ ${running} AND usename = 'app'`)) === 0; i++);
  };
  await wait();
  const canceller = new Client({ connectionString: url });
  canceller.processID = c.processID;
  canceller.secretKey = c.secretKey;
  canceller.connection.on('connect', () => canceller.connection.cancel(c.processID, c.secretKey));
  canceller.connection.on('error', () => {});
  canceller.connection.connect(c.port, c.host);
  await sleeping;
  assert.equal(await one(c, "SELECT 'alive'"), 'alive');
  const hasty = await connected({ statement_timeout: 200 });
  await assert.rejects(hasty.query('SELECT pg_sleep(60)'), { code: '57014' });
  await Promise.all([c.end(), other.end(), hasty.end()]);
}

async function errors() {
  const c = await connected();
  await assert.rejects(c.query('SELECT id,\n nonsense FROM numbers'), { code: '42703', position: '13' });
  await assert.rejects(c.query('INSERT INTO kv VALUES (1, 1)'), { code: '23505', table: 'kv', constraint: 'kv_pkey' });
  const heard = [];
  c.on('notice', (notice) => heard.push(notice.message));
  assert.equal(await one(c, "SELECT shout('hi')"), 'HI');
  assert.deepEqual(heard, ['shout: hi']);
  await c.end();
}

async function notifications() {
  const [listener, speaker] = [await connected(), await connected()];
  const heard = new Promise((resolve) => listener.on('notification', resolve));
  await listener.query('LISTEN node_chat');
  await speaker.query("SELECT pg_notify('node_chat', 'hello')");
  assert.equal((await heard).payload, 'hello');
  await Promise.all([listener.end(), speaker.end()]);
}

async function stateful(number) {
  const c = await connected({ application_name: `client ${number}` });
  await c.query(`SET work_mem = '${9001 + 2 * number}kB'`);
  await c.query("SELECT set_config('my.number', $1, false)", [String(number)]);
  for (let i = 1; i <= 10; i++) {
    assert.equal(await one(c, 'SHOW work_mem'), `${9001 + 2 * number}kB`);
    assert.equal(await one(c, 'SHOW application_name'), `client ${number}`);
    assert.equal(await one(c, "SELECT current_setting('my.number')"), String(number));
    assert.equal(await one(c, { name: 'n', text: 'SELECT name FROM numbers WHERE id = $1', values: [i] }), `number ${i}`);
    await c.query('BEGIN');
    await c.query('UPDATE kv SET value = $1 WHERE id = $2', [i, 800 + number]);
    await c.query('COMMIT');
    assert.equal(await one(c, 'SELECT value::int FROM kv WHERE id = $1', [800 + number]), i);
  }
  await c.end();
}

const fiftyOverFive = () => Promise.all(Array.from({ length: 50 }, (_, number) => stateful(number)));

async function ownPool() {
  const pool = new Pool({ connectionString: url, max: 10 });
  const names = await Promise.all(Array.from({ length: 100 }, (_, i) => one(pool, 'SELECT name FROM numbers WHERE id = $1', [i + 1])));
  assert.deepEqual(names, Array.from({ length: 100 }, (_, i) => `number ${i + 1}`));
  await pool.end();
}

(async () => {
  for (const step of [transactions, prepared, copies, cancels, errors, notifications, fiftyOverFive, ownPool]) {
    const began = Date.now();
    await step();
    console.log(`node-postgres: ${step.name} (${(Date.now() - began) / 1000} s)`);
  }
})().catch((error) => { console.error(error); process.exit(1); });
