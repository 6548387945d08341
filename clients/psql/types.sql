-- Values of every family, in text.
SELECT 1::smallint, 2::int, 3::bigint, 1.5::real, 2.5::double precision, 'NaN'::numeric, 1e100::numeric;
SELECT '12:00'::money IS NULL, 'x'::"char", 'y'::char(3), 'z'::varchar(2), E'\\x00ff'::bytea;
SELECT '2026-01-01'::date, '10:00'::time, '10:00+02'::timetz, 'infinity'::timestamptz, '1 day 2 hours'::interval;
SELECT '(1,2)'::point, '[(0,0),(1,1)]'::lseg, '<(0,0),1>'::circle, '((0,0),(1,1))'::box;
SELECT '10.0.0.0/8'::cidr, '::1'::inet, '08:00:2b:01:02:03'::macaddr;
SELECT B'101', 'a & b'::tsquery, 'a b'::tsvector, '<a/>'::xml, '{"a": [1]}'::json, '{"a": [1]}'::jsonb, '$.a'::jsonpath;
SELECT ARRAY[[1, 2], [3, NULL]], '[1,5)'::int4range, '{[1,2],[4,5]}'::int4multirange, ROW(1, 'a', NULL);
SELECT 'pg_class'::regclass, 'int4'::regtype, '0/1'::pg_lsn IS NOT NULL, 1::oid, '(0,1)'::tid;
SELECT '日本 ☃ 🐘', U&'\0441\043B\043E\043D', repeat('x', 100) COLLATE "C";
SELECT NULL AS nothing, '' AS empty, true, false;
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
SELECT 'sad'::mood, 7::positive, '(1,x)'::pair;
SELECT (-7)::positive;
DROP TYPE mood, pair;
DROP DOMAIN positive;
