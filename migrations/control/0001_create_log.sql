-- Every change of intent, as one row: its number is the generation that it makes. Rows are only ever added.
CREATE TABLE change (
    generation INTEGER PRIMARY KEY CHECK (generation > 0),
    entry      BLOB    NOT NULL
) STRICT;

CREATE TRIGGER change_is_append_only_update BEFORE UPDATE ON change
BEGIN
    SELECT RAISE(ABORT, 'changes are append-only');
END;

CREATE TRIGGER change_is_append_only_delete BEFORE DELETE ON change
BEGIN
    SELECT RAISE(ABORT, 'changes are append-only');
END;

-- What nodes report of themselves. A node that has not reported for a while is away.
CREATE TABLE node (
    name   TEXT    PRIMARY KEY,
    at_ms  INTEGER NOT NULL,
    report BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
