-- What tables rest on. Columns that an older PostgreSQL lacks are looked for by name.
SELECT
    (
        SELECT concat_ws(
            ' ',
            provider.name,
            coalesce(known.row ->> 'datlocale', known.row ->> 'daticulocale', d.datcollate),
            'version ' || (known.row ->> 'datcollversion')
        )
        FROM pg_database d
        CROSS JOIN LATERAL (SELECT to_jsonb(d)) known (row)
        CROSS JOIN LATERAL (
            SELECT CASE known.row ->> 'datlocprovider'
                WHEN 'i' THEN 'icu'
                WHEN 'b' THEN 'builtin'
                ELSE 'libc'
            END
        ) provider (name)
        WHERE d.datname = current_database()
    ) AS sorts_by,
    (
        -- Those that columns name; the database's own and C are left out.
        SELECT coalesce(jsonb_object_agg(
            format('%s.%s', n.nspname, c.collname),
            concat_ws(
                ' ',
                CASE c.collprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
                coalesce(
                    to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate
                ),
                'version ' || c.collversion
            )
        ), '{}')
        FROM pg_collation c
        JOIN pg_namespace n ON n.oid = c.collnamespace
        WHERE c.collprovider <> 'd'
            AND c.collname NOT IN ('C', 'POSIX')
            AND EXISTS (
                SELECT FROM pg_attribute a
                WHERE a.attcollation = c.oid AND a.attrelid >= 16384
            )
    ) AS collations,
    (
        SELECT coalesce(jsonb_object_agg(format('%s.%s', n.nspname, t.typname), labels.list), '{}')
        FROM pg_type t
        JOIN pg_namespace n ON n.oid = t.typnamespace
        CROSS JOIN LATERAL (
            SELECT jsonb_agg(e.enumlabel ORDER BY e.enumsortorder)
            FROM pg_enum e
            WHERE e.enumtypid = t.oid
        ) labels (list)
        WHERE t.typtype = 'e' AND labels.list IS NOT NULL
    ) AS enums,
    (SELECT coalesce(jsonb_object_agg(e.extname, e.extversion), '{}') FROM pg_extension e)
        AS extensions
