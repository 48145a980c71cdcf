-- What changes often and is nobody's intent, such as leases: each has the number of the last change of any of them that wrote it.
CREATE TABLE register (
    name     TEXT    PRIMARY KEY,
    revision INTEGER NOT NULL CHECK (revision > 0),
    value    TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX register_by_revision ON register (revision);

-- The number of the last change: none is used twice.
CREATE TABLE register_revision (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    last INTEGER NOT NULL
) STRICT;

INSERT INTO register_revision (id, last) VALUES (1, 0);
