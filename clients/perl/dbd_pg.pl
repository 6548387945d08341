# DBD::Pg: prepared on the server, with COPY, asynchronous statements and two placeholders' styles.

use strict;
use warnings;
use utf8;
use DBI;
use DBD::Pg qw(:pg_types :async);
use JSON::PP;

my $json = JSON::PP->new->utf8->canonical;
$| = 1;

sub tell_line { print $json->encode({@_}), "\n" }
sub same { my ($one, $other) = map { $_ // 'undef' } @_; die "$one is not $other\n" unless $one eq $other }

sub session {
    my $options = shift // '';
    my $dsn = "dbi:Pg:dbname=$ENV{PGDATABASE};host=$ENV{PGHOST};port=$ENV{PGPORT}$options";
    return DBI->connect($dsn, $ENV{PGUSER}, $ENV{PGPASSWORD},
        { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1 });
}

sub refused {
    my ($code, $db, $body) = @_;
    eval { $body->(); 1 } and die "no error where $code was expected\n";
    same($db->state, $code);
}

my @cases = (
    connects_and_says_who_it_is => sub {
        my $c = session(";application_name=shop;options='-c work_mem=7MB'");
        same($c->selectrow_array('SHOW application_name'), 'shop');
        same($c->selectrow_array('SHOW work_mem'), '7MB');
    },
    several_statements_in_one_text => sub {
        my $c = session();
        $c->do("INSERT INTO note (body) VALUES ('a'); INSERT INTO note (body) VALUES ('b')");
        same($c->selectrow_array('SELECT count(*) FROM note'), 2);
    },
    parameters => sub {
        same(session()->selectrow_array('SELECT ?::text || ?::text', undef, "it's ", '50%'), "it's 50%");
    },
    a_prepared_statement_again_and_again => sub {
        my $c = session();
        my $add = $c->prepare('INSERT INTO note (body) VALUES (?) RETURNING body');
        for my $i (1 .. 20) { $add->execute($i); same($add->fetchrow_array, $i) }
        same($c->selectrow_array('SELECT count(*) FROM note'), 20);
    },
    values_of_many_types => sub {
        my $c = session();
        my $add = $c->prepare('INSERT INTO note (amount, blob, tags, at, flag) VALUES (?, ?, ?, ?, ?) RETURNING amount, blob, tags');
        $add->bind_param(2, "\x00\xff\\", { pg_type => PG_BYTEA });
        $add->bind_param(1, '12345678901234567890.123456789');
        $add->bind_param(3, ['a', 'b,c', undef]);
        $add->bind_param(4, '2026-02-03 04:05:06Z');
        $add->bind_param(5, 1);
        $add->execute;
        my ($amount, $blob, $tags) = $add->fetchrow_array;
        same($amount, '12345678901234567890.123456789');
        same($blob, "\x00\xff\\");
        same($tags->[1], 'b,c');
    },
    nulls_and_unicode => sub {
        my ($null, $text) = session()->selectrow_array('SELECT ?::text, ?::text', undef, undef, '日本 ☃ 🐘');
        same($null, undef);
        same($text, '日本 ☃ 🐘');
    },
    ten_megabytes => sub {
        my $text = 'žluťoučký 🐎 ' x 700_000;
        my ($back) = session()->selectrow_array('INSERT INTO note (body) VALUES (?) RETURNING body', undef, $text);
        die "another text came back\n" unless $back eq $text;
    },
    transactions_and_savepoints => sub {
        my $c = session();
        $c->begin_work;
        $c->do("INSERT INTO note (body) VALUES ('kept')");
        $c->pg_savepoint('s');
        refused('22012', $c, sub { $c->do('SELECT 1/0') });
        refused('25P02', $c, sub { $c->do('SELECT 1') });
        $c->pg_rollback_to('s');
        $c->commit;
        same($c->selectrow_array("SELECT string_agg(body, ';') FROM note"), 'kept');
    },
    errors_tell_where_and_why => sub {
        my $c = session();
        $c->do('INSERT INTO note (id) VALUES (1)');
        refused('23505', $c, sub { $c->do('INSERT INTO note (id) VALUES (?)', undef, 1) });
        same($c->pg_error_field('pg_diag_constraint_name'), 'note_pkey');
    },
    copy_in_and_out => sub {
        my $c = session();
        $c->do('COPY note (body, amount) FROM STDIN');
        $c->pg_putcopydata("row $_\t$_\n") for 1 .. 10_000;
        $c->pg_putcopyend;
        $c->do('COPY (SELECT body FROM note ORDER BY id) TO STDOUT');
        my ($line, $count) = ('', 0);
        $count++ while $c->pg_getcopydata($line) >= 0;
        same($count, 10_000);
    },
    a_cursor_of_the_server => sub {
        my $c = session();
        $c->begin_work;
        $c->do('DECLARE numbers SCROLL CURSOR WITH HOLD FOR SELECT generate_series(1, 100)');
        $c->commit;
        same($c->selectrow_array('FETCH LAST FROM numbers'), 100);
        $c->do('CLOSE numbers');
    },
    listen_and_notify => sub {
        my ($c, $other) = (session(), session());
        $c->do('LISTEN news');
        $other->do("NOTIFY news, 'hello'");
        my ($heard, $end) = (undef, time + 30);
        until ($heard = $c->pg_notifies) { die "nothing was heard\n" if time > $end; $c->ping }
        same($heard->[2], 'hello');
    },
    an_asynchronous_statement_that_is_cancelled => sub {
        my ($c, $other) = (session(';application_name=sleeper'), session());
        $c->do('SELECT pg_sleep(60)', { pg_async => PG_ASYNC });
        my $sql = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'sleeper' AND wait_event = 'PgSleep'";
        my $end = time + 30;
        until ($other->selectrow_array($sql)) { die "it does not sleep\n" if time > $end }
        same($c->pg_cancel, 1);
        same($c->selectrow_array('SELECT 1'), 1);
    },
    statement_timeout => sub {
        my $c = session();
        $c->do("SET statement_timeout = '50ms'");
        refused('57014', $c, sub { $c->do('SELECT pg_sleep(60)') });
    },
    a_batch => sub {
        my $c = session();
        my $add = $c->prepare('INSERT INTO note (body) VALUES (?)');
        same($add->execute_array({}, [1 .. 200]), 200);
    },
    isolation_levels => sub {
        my $c = session();
        $c->begin_work;
        $c->do('SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY');
        refused('25006', $c, sub { $c->do("INSERT INTO note (body) VALUES ('no')") });
        $c->rollback;
    },
    two_phase_commit => sub {
        my $c = session();
        $c->do("BEGIN; INSERT INTO draft VALUES ('kept'); PREPARE TRANSACTION 'perl'");
        $c->do("COMMIT PREPARED 'perl'");
        same($c->selectrow_array('SELECT body FROM draft'), 'kept');
    },
    notices => sub {
        my ($c, @heard) = (session());
        local $SIG{__WARN__} = sub { push @heard, shift };
        $c->{PrintWarn} = 1;
        $c->do("DO \$\$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END \$\$");
        same(scalar(grep { /one|two/ } @heard), 2);
    },
);

tell_line(driver => 'DBD::Pg', version => "$DBD::Pg::VERSION");
while (my ($name, $body) = splice(@cases, 0, 2)) {
    my $passed = eval {
        session()->do('DELETE FROM page; DELETE FROM note; DELETE FROM draft');
        local $SIG{ALRM} = sub { die "not within 60 s\n" };
        alarm 60;
        $body->();
        alarm 0;
        1;
    };
    my $why = $passed ? '' : "$@";
    alarm 0;
    tell_line(case => $name, outcome => $passed ? 'passed' : 'failed', detail => $why);
}
