// How are the cases of a driver run, and told to clients/run.py? As python/cases.py says.

import assert from 'node:assert/strict'

const { PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE } = process.env
export const url = `postgres://${PGUSER}:${PGPASSWORD}@${PGHOST}:${PGPORT}/${PGDATABASE}`
export const largeBytes = Buffer.alloc(10_000_000, Buffer.from(Array.from({ length: 9973 }, (_, i) => (i * i) % 251)))
export const largeText = 'žluťoučký 🐎 '.repeat(700_000)
const WAIT_MS_MAX = 30_000

const tell = line => console.log(JSON.stringify(line))

/** Runs every case, each after `clean`; one passes unless it throws. */
export async function runAll(driver, version, clean, cases) {
  tell({ driver, version })
  for (const [name, body] of Object.entries(cases)) {
    try {
      await clean()
      await within(body())
      tell({ case: name, outcome: 'passed', detail: '' })
    } catch (error) {
      tell({ case: name, outcome: 'failed', detail: `${error.code ?? error.name}: ${error.message}` })
    }
  }
  process.exit(0)
}

/** Checks that a promise is rejected with this SQLSTATE, and returns the error. */
export async function refused(code, promise) {
  const error = await promise.then(() => assert.fail(`no error where ${code} was expected`), error => error)
  assert.equal(error.code, code, error.message)
  return error
}

/** Asks until the answer is true. */
export async function until(fact) {
  const end = Date.now() + WAIT_MS_MAX
  while (!(await fact())) assert.ok(Date.now() < end, 'not within 30 s')
}

function within(promise) {
  const late = new Promise((_, reject) => setTimeout(() => reject(new Error('not within 60 s')), 2 * WAIT_MS_MAX).unref())
  return Promise.race([promise, late])
}
