// Postgres.js: everything prepared and pipelined, unless it is told otherwise.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import postgres from 'postgres'
import { largeBytes, largeText, refused, runAll, until, url } from './cases.js'

async function session(body, settings = {}) {
  const sql = postgres(url, { max: 1, onnotice: () => {}, ...settings })
  try {
    return await body(sql)
  } finally {
    await sql.end({ timeout: 5 })
  }
}

const values = async query => Array.from(await query.values(), row => Array.from(row))

const cases = {
  connects_and_says_who_it_is: () => session(async sql => {
    assert.deepEqual(await values(sql`SELECT current_setting('application_name') AS a, current_setting('work_mem') AS b`), [['shop', '7MB']])
  }, { connection: { application_name: 'shop', work_mem: '7MB' } }),

  parameters: () => session(async sql => assert.deepEqual(await values(sql`SELECT ${"it's "}::text || ${'50%'}`), [["it's 50%"]])),

  a_prepared_statement_again_and_again: () => session(async sql => {
    for (let i = 0; i < 20; i++) await sql`INSERT INTO note (body) VALUES (${String(i)})`
    assert.deepEqual(await values(sql`SELECT count(*)::int FROM note`), [[20]])
  }),

  values_of_many_types: () => session(async sql => {
    const note = { body: 'text', amount: '12345678901234567890.123456789', doc: { a: [1, null, 'ž'] }, blob: Buffer.from([0, 255, 92]),
      at: new Date('2026-02-03T04:05:06.789Z'), uid: '00000000-0000-0000-0000-000000000001', flag: true, tags: ['a', 'b,c'] }
    const [row] = await sql`INSERT INTO note ${sql(note)} RETURNING ${sql(Object.keys(note))}`
    assert.deepEqual({ ...row }, note)
  }),

  nulls_and_unicode: () => session(async sql => {
    assert.deepEqual(await values(sql`SELECT ${null}::text, ${'日本 ☃ 🐘'}::text`), [[null, '日本 ☃ 🐘']])
  }),

  ten_megabytes: () => session(async sql => {
    const [row] = await sql`INSERT INTO note (body, blob) VALUES (${largeText}, ${largeBytes}) RETURNING body, blob`
    assert.ok(row.body === largeText && row.blob.equals(largeBytes))
  }),

  transactions_and_savepoints: () => session(async sql => {
    await sql.begin(async sql => {
      await sql`INSERT INTO note (body) VALUES ('kept')`
      await refused('22012', sql.savepoint(async sql => {
        await sql`INSERT INTO note (body) VALUES ('gone')`
        await sql`SELECT 1/0`
      }))
    })
    assert.deepEqual(await values(sql`SELECT body FROM note`), [['kept']])
  }),

  an_error_ends_the_transaction_and_rollback_begins_anew: () => session(async sql => {
    await refused('42P01', sql.begin(sql => [sql`INSERT INTO note (body) VALUES ('gone')`, sql`SELECT * FROM nowhere`]))
    assert.deepEqual(await values(sql`SELECT count(*)::int FROM note`), [[0]])
  }),

  errors_tell_where_and_why: () => session(async sql => {
    await sql`INSERT INTO note (id) VALUES (1)`
    const error = await refused('23505', sql`INSERT INTO note (id) VALUES (1)`)
    assert.deepEqual([error.constraint_name, error.detail], ['note_pkey', 'Key (id)=(1) already exists.'])
  }),

  copy_in_and_out: () => session(async sql => {
    const lines = Array.from({ length: 10_000 }, (_, i) => `row ${i}\t${i}\n`).join('')
    await pipeline(Readable.from([lines]), await sql`COPY note (body, amount) FROM STDIN`.writable())
    let out = ''
    for await (const chunk of await sql`COPY (SELECT body, amount FROM note ORDER BY id) TO STDOUT`.readable()) out += chunk
    assert.equal(out, lines)
  }),

  a_cursor_of_the_server: () => session(async sql => {
    let sum = 0
    for await (const rows of sql`SELECT generate_series(1, 1000) AS i`.cursor(10)) for (const { i } of rows) sum += i
    assert.equal(sum, 500_500)
  }),

  listen_and_notify: () => session(async sql => {
    const heard = []
    await sql.listen('news', said => heard.push(said))
    await sql.notify('news', 'hello')
    await until(() => new Promise(resolve => setImmediate(() => resolve(heard.length === 1))))
  }),

  cancel: () => session(sql => session(async other => {
    const sleeping = sql`SELECT pg_sleep(60)`.execute()
    await until(async () => (await other`SELECT 1 FROM pg_stat_activity
      WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'`).length === 1)
    sleeping.cancel()
    await refused('57014', sleeping)
    assert.deepEqual(await values(sql`SELECT 1`), [[1]])
  }), { connection: { application_name: 'sleeper' } }),

  a_pipeline: () => session(async sql => {
    const rows = await Promise.all(Array.from({ length: 200 }, (_, i) => sql`INSERT INTO note (body) VALUES (${String(i)}) RETURNING body`))
    assert.deepEqual(rows.map(([row]) => row.body), rows.map((_, i) => String(i)))
  }),

  a_pool: () => session(async sql => {
    await Promise.all(Array.from({ length: 40 }, () => sql`INSERT INTO note (body) VALUES ('pooled')`))
    assert.deepEqual(await values(sql`SELECT count(*)::int FROM note`), [[40]])
  }, { max: 4 }),

  simple_protocol: () => session(async sql => {
    const results = await sql`INSERT INTO note (body) VALUES ('a'); SELECT 2 AS x`.simple()
    assert.deepEqual(results.map(result => result.command), ['INSERT', 'SELECT'])
  }),

  nothing_prepared: () => session(async sql => assert.deepEqual(await values(sql`SELECT ${1}::int + 1`), [[2]]), { prepare: false }),

  notices: async () => {
    const heard = []
    await session(sql => sql.unsafe("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$"), { onnotice: said => heard.push(said.message) })
    assert.deepEqual(heard, ['one', 'two'])
  },
}

const { version } = JSON.parse(readFileSync(new URL('node_modules/postgres/package.json', import.meta.url)))
await runAll('Postgres.js', version, () => session(sql => sql.unsafe('DELETE FROM page; DELETE FROM note; DELETE FROM draft')), cases)
