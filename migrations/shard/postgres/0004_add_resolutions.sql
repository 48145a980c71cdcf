-- What became of conflicts in tables whose rule is a policy: whom the shard's primary asked last, as `NAME@DIGEST`, and what came of it.
ALTER TABLE portolan.conflict ADD COLUMN resolver TEXT;
ALTER TABLE portolan.conflict ADD COLUMN resolution TEXT;

-- Those that may still be asked about.
CREATE INDEX conflict_open ON portolan.conflict (table_name, key)
    WHERE rule = 'policy' AND (resolution IS NULL OR resolution LIKE 'refused:%');
