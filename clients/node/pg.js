// node-postgres, with its pool, cursors, streams and COPY.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import pg from 'pg'
import { from as copyFrom, to as copyTo } from 'pg-copy-streams'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import { largeBytes, largeText, refused, runAll, until, url } from './cases.js'

async function session(body, settings = {}) {
  const client = new pg.Client({ connectionString: url, ...settings })
  client.on('error', () => {})
  await client.connect()
  try {
    return await body(client)
  } finally {
    await client.end()
  }
}

const one = async (client, sql, values) => Object.values((await client.query(sql, values)).rows[0])[0]
const add = 'INSERT INTO note (body) VALUES ($1) RETURNING body'

const cases = {
  connects_and_says_who_it_is: () => session(async c => {
    assert.equal(await one(c, 'SHOW application_name'), 'shop')
    assert.equal(await one(c, 'SHOW work_mem'), '7MB')
  }, { application_name: 'shop', options: '-c work_mem=7MB' }),

  several_statements_in_one_text: () => session(async c => {
    const results = await c.query("INSERT INTO note (body) VALUES ('a'); SELECT 2 AS x")
    assert.deepEqual(results.map(result => result.command), ['INSERT', 'SELECT'])
  }),

  parameters: () => session(async c => assert.equal(await one(c, 'SELECT $1 || $2', ["it's ", '50%']), "it's 50%")),

  a_prepared_statement_again_and_again: () => session(async c => {
    for (let i = 0; i < 20; i++) {
      const result = await c.query({ name: 'adds', text: add, values: [String(i)] })
      assert.equal(result.rows[0].body, String(i))
    }
    assert.equal(await one(c, 'SELECT count(*)::int FROM note'), 20)
  }),

  values_of_many_types: () => session(async c => {
    const values = ['text', '12345678901234567890.123456789', { a: [1, null, 'ž'] }, Buffer.from([0, 255, 92]),
      ['a', 'b,c', null], new Date('2026-02-03T04:05:06.789Z'), '00000000-0000-0000-0000-000000000001', true]
    const names = 'body, amount, doc, blob, tags, at, uid, flag'
    const sql = `INSERT INTO note (${names}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING ${names}`
    assert.deepEqual(Object.values((await c.query(sql, values)).rows[0]), values)
  }),

  nulls_and_unicode: () => session(async c => {
    const { rows } = await c.query({ text: 'SELECT $1::text, $2::text', values: [null, '日本 ☃ 🐘'], rowMode: 'array' })
    assert.deepEqual(rows, [[null, '日本 ☃ 🐘']])
  }),

  ten_megabytes: () => session(async c => {
    const sql = 'INSERT INTO note (body, blob) VALUES ($1, $2) RETURNING body, blob'
    const { rows: [row] } = await c.query(sql, [largeText, largeBytes])
    assert.ok(row.body === largeText && row.blob.equals(largeBytes))
  }),

  transactions_and_savepoints: () => session(async c => {
    await c.query('BEGIN')
    await c.query(add, ['kept'])
    await c.query('SAVEPOINT s')
    await refused('22012', c.query('SELECT 1/0'))
    await refused('25P02', c.query('SELECT 1'))
    await c.query('ROLLBACK TO s')
    await c.query('COMMIT')
    assert.equal(await one(c, "SELECT string_agg(body, ';') FROM note"), 'kept')
  }),

  errors_tell_where_and_why: () => session(async c => {
    await c.query('INSERT INTO note (id) VALUES (1)')
    const error = await refused('23505', c.query('INSERT INTO note (id) VALUES ($1)', [1]))
    assert.deepEqual([error.constraint, error.detail], ['note_pkey', 'Key (id)=(1) already exists.'])
  }),

  copy_in_and_out: () => session(async c => {
    const lines = Array.from({ length: 10_000 }, (_, i) => `row ${i}\t${i}\n`).join('')
    await pipeline(Readable.from([lines]), c.query(copyFrom('COPY note (body, amount) FROM STDIN')))
    let out = ''
    for await (const chunk of c.query(copyTo('COPY (SELECT body, amount FROM note ORDER BY id) TO STDOUT'))) out += chunk
    assert.equal(out, lines)
  }),

  a_cursor_of_the_server: () => session(async c => {
    const cursor = c.query(new Cursor('SELECT generate_series(1, $1::int) AS i', [1000]))
    assert.deepEqual((await cursor.read(2)).map(row => row.i), [1, 2])
    assert.equal((await cursor.read(1000)).length, 998)
    await cursor.close()
  }),

  rows_one_by_one: () => session(async c => {
    let sum = 0
    for await (const row of c.query(new QueryStream('SELECT generate_series(1, 1000) AS i', [], { batchSize: 10 }))) sum += row.i
    assert.equal(sum, 500_500)
  }),

  listen_and_notify: () => session(listener => session(async sender => {
    const heard = []
    listener.on('notification', said => heard.push(said.payload))
    await listener.query('LISTEN news')
    await sender.query("NOTIFY news, 'hello'")
    await until(() => new Promise(resolve => setImmediate(() => resolve(heard.length === 1))))
  })),

  cancel: () => session(c => session(async other => {
    const sleeping = refused('57014', c.query('SELECT pg_sleep(60)'))
    const sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'"
    await until(async () => (await other.query(sql)).rows.length === 1)
    const canceller = new pg.Client({ connectionString: url })
    const connection = canceller.connection
    connection.on('connect', () => connection.cancel(c.processID, c.secretKey))
    connection.connect(Number(process.env.PGPORT), process.env.PGHOST)
    await sleeping
    assert.equal(await one(c, 'SELECT 1 AS x'), 1)
  }), { application_name: 'sleeper' }),

  statement_timeout: () => session(c => refused('57014', c.query('SELECT pg_sleep(60)')), { statement_timeout: 50 }),

  many_at_once: () => session(async c => {
    const results = await Promise.all(Array.from({ length: 200 }, (_, i) => c.query(add, [String(i)])))
    assert.deepEqual(results.map(result => result.rows[0].body), results.map((_, i) => String(i)))
  }),

  a_pool: async () => {
    const pool = new pg.Pool({ connectionString: url, max: 4 })
    await Promise.all(Array.from({ length: 40 }, () => pool.query(add, ['pooled'])))
    assert.equal(await one(pool, 'SELECT count(*)::int FROM note'), 40)
    await pool.end()
  },

  isolation_levels: () => session(async c => {
    await c.query('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE')
    assert.equal(await one(c, 'SHOW transaction_isolation'), 'serializable')
    await refused('25006', c.query(add, ['no']))
    await c.query('ROLLBACK')
  }),

  two_phase_commit: () => session(async c => {
    await c.query("BEGIN; INSERT INTO draft VALUES ('kept'); PREPARE TRANSACTION 'node'")
    await c.query("COMMIT PREPARED 'node'")
    assert.equal(await one(c, 'SELECT body FROM draft'), 'kept')
  }),

  notices: () => session(async c => {
    const heard = []
    c.on('notice', said => heard.push(said.message))
    await c.query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
    assert.deepEqual(heard, ['one', 'two'])
  }),
}

const { version } = JSON.parse(readFileSync(new URL('node_modules/pg/package.json', import.meta.url)))
await runAll('node-postgres', version, () => session(c => c.query('DELETE FROM page; DELETE FROM note; DELETE FROM draft')), cases)
