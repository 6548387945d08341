# Ruby's pg: libpq with typed results, COPY and a pipeline.

require 'json'
require 'pg'
require 'timeout'

$stdout.sync = true

def session(**settings)
  c = PG.connect(host: ENV['PGHOST'], port: ENV['PGPORT'], user: ENV['PGUSER'], password: ENV['PGPASSWORD'],
                 dbname: ENV['PGDATABASE'], **settings)
  yield c
ensure
  c&.finish
end

def same(one, other)
  raise "#{one.inspect} is not #{other.inspect}" unless one == other
end

def refused(code)
  yield
rescue PG::Error => e
  same(e.result&.error_field(PG::PG_DIAG_SQLSTATE), code)
  e
else
  raise "no error where #{code} was expected"
end

def one(c, sql, values = []) = c.exec_params(sql, values).getvalue(0, 0)

CASES = {
  connects_and_says_who_it_is: lambda do
    session(application_name: 'shop', options: '-c work_mem=7MB') do |c|
      same(one(c, 'SHOW application_name'), 'shop')
      same(one(c, 'SHOW work_mem'), '7MB')
    end
  end,
  parameters: -> { session { |c| same(one(c, 'SELECT $1::text || $2', ["it's ", '50%']), "it's 50%") } },
  a_prepared_statement_again_and_again: lambda do
    session do |c|
      c.prepare('adds', 'INSERT INTO note (body) VALUES ($1) RETURNING body')
      20.times { |i| same(c.exec_prepared('adds', [i]).getvalue(0, 0), i.to_s) }
      same(c.describe_prepared('adds').nparams, 1)
    end
  end,
  values_of_many_types: lambda do
    session do |c|
      c.type_map_for_results = PG::BasicTypeMapForResults.new(c)
      row = c.exec_params('INSERT INTO note (tags, flag, at, blob) VALUES ($1, $2, $3, $4) RETURNING tags, flag, blob',
                          ['{a,"b,c",NULL}', true, '2026-02-03 04:05:06Z', { value: "\x00\xFF".b, format: 1 }]).values[0]
      same(row, [['a', 'b,c', nil], true, "\x00\xFF".b])
    end
  end,
  nulls_and_unicode: lambda do
    session { |c| same(c.exec_params('SELECT $1::text, $2::text', [nil, '日本 ☃ 🐘']).values, [[nil, '日本 ☃ 🐘']]) }
  end,
  ten_megabytes: lambda do
    text = 'žluťoučký 🐎 ' * 700_000
    session { |c| same(one(c, 'INSERT INTO note (body) VALUES ($1) RETURNING body', [text]) == text, true) }
  end,
  transactions_and_savepoints: lambda do
    session do |c|
      c.transaction do
        c.exec("INSERT INTO note (body) VALUES ('kept'); SAVEPOINT s")
        refused('22012') { c.exec('SELECT 1/0') }
        refused('25P02') { c.exec('SELECT 1') }
        c.exec('ROLLBACK TO s')
      end
      same(one(c, 'SELECT count(*) FROM note'), '1')
    end
  end,
  errors_tell_where_and_why: lambda do
    session do |c|
      c.exec('INSERT INTO note (id) VALUES (1)')
      error = refused('23505') { c.exec('INSERT INTO note (id) VALUES (1)') }
      same(error.result.error_field(PG::PG_DIAG_CONSTRAINT_NAME), 'note_pkey')
    end
  end,
  copy_in_and_out: lambda do
    session do |c|
      c.copy_data('COPY note (body, amount) FROM STDIN') { 10_000.times { |i| c.put_copy_data("row #{i}\t#{i}\n") } }
      count = 0
      c.copy_data('COPY (SELECT body FROM note) TO STDOUT') { count += 1 while c.get_copy_data }
      same(count, 10_000)
    end
  end,
  a_cursor_of_the_server: lambda do
    session do |c|
      c.transaction do
        c.exec('DECLARE numbers SCROLL CURSOR FOR SELECT generate_series(1, 100)')
        same(one(c, 'FETCH LAST FROM numbers'), '100')
      end
    end
  end,
  rows_one_by_one: lambda do
    session do |c|
      c.send_query('SELECT generate_series(1, 1000)')
      c.set_single_row_mode
      sum = 0
      c.get_result.stream_each_row { |row| sum += row[0].to_i }
      same(sum, 500_500)
    end
  end,
  listen_and_notify: lambda do
    session do |c|
      c.exec('LISTEN news')
      session { |other| other.exec("NOTIFY news, 'hello'") }
      heard = nil
      c.wait_for_notify(30) { |_channel, _pid, payload| heard = payload }
      same(heard, 'hello')
    end
  end,
  cancel: lambda do
    session(application_name: 'sleeper') do |c|
      session do |other|
        c.send_query('SELECT pg_sleep(60)')
        sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'"
        Thread.pass until one(other, sql) == '1'
        same(c.cancel, nil)
        refused('57014') { c.get_last_result }
        same(one(c, 'SELECT 1'), '1')
      end
    end
  end,
  statement_timeout: lambda do
    session(options: '-c statement_timeout=50ms') { |c| refused('57014') { c.exec('SELECT pg_sleep(60)') } }
  end,
  a_pipeline: lambda do
    session do |c|
      c.enter_pipeline_mode
      100.times { |i| c.send_query_params('INSERT INTO note (body) VALUES ($1) RETURNING body', [i]) }
      c.pipeline_sync
      100.times do |i|
        same(c.get_result.getvalue(0, 0), i.to_s)
        same(c.get_result, nil)
      end
      same(c.get_result.result_status, PG::PGRES_PIPELINE_SYNC)
      c.exit_pipeline_mode
    end
  end,
  two_phase_commit: lambda do
    session do |c|
      c.exec("BEGIN; INSERT INTO draft VALUES ('kept'); PREPARE TRANSACTION 'ruby'")
      c.exec("COMMIT PREPARED 'ruby'")
      same(one(c, 'SELECT body FROM draft'), 'kept')
    end
  end,
  notices: lambda do
    session do |c|
      heard = []
      c.set_notice_processor { |said| heard << said }
      c.exec("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$")
      same(heard, ["NOTICE:  one\n", "WARNING:  two\n"])
    end
  end
}.freeze

puts JSON.generate(driver: 'ruby-pg', version: PG::VERSION)
CASES.each do |name, body|
  session { |c| c.exec('DELETE FROM page; DELETE FROM note; DELETE FROM draft') }
  Timeout.timeout(60) { body.call }
  puts JSON.generate(case: name, outcome: 'passed', detail: '')
rescue StandardError => e
  puts JSON.generate(case: name, outcome: 'failed', detail: "#{e.class}: #{e.message}")
end
