-- What portolan keeps in a shard beside the operator's tables. All times are microseconds of this database's clock.

-- The fence, and which log this is. One row.
CREATE TABLE portolan_fence (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    epoch       INTEGER NOT NULL CHECK (epoch >= 0),
    deadline_us INTEGER NOT NULL,
    member      INTEGER NOT NULL CHECK (member >= 0),
    origin      TEXT    NOT NULL,
    schema      INTEGER NOT NULL,
    system      TEXT    NOT NULL,
    timeline    INTEGER NOT NULL,
    incarnation TEXT    NOT NULL,
    -- The history was cut: a new epoch must begin before anything is written.
    cut         INTEGER NOT NULL CHECK (cut IN (0, 1)),
    -- The number of the transaction that is being written. SQLite numbers none; whoever wants an end moves it on.
    tx          INTEGER NOT NULL,
    -- Tombstones are stamped with it, and swept by it.
    round       INTEGER NOT NULL,
    -- Tombstones of the rounds before this one have been swept.
    swept       INTEGER NOT NULL
) STRICT;

INSERT INTO portolan_fence VALUES
    (1, 0, 0, 0, '', 0, lower(hex(randomblob(8))), 1, lower(hex(randomblob(8))), 0, 1, 1, 0);

CREATE TABLE portolan_log (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    epoch           INTEGER NOT NULL,
    tx              INTEGER NOT NULL,
    at_us           INTEGER NOT NULL,
    tenant          TEXT CHECK (length(tenant) BETWEEN 1 AND 63 AND tenant NOT GLOB '*[^a-z0-9._-]*'
                                AND tenant GLOB '[a-z0-9]*' AND tenant GLOB '*[a-z0-9]'),
    placement       INTEGER NOT NULL,
    schema          INTEGER NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('put', 'delete', 'forget')),
    table_name      TEXT,
    key             TEXT,
    version_epoch   INTEGER,
    v               INTEGER,
    origin          TEXT,
    replaces_epoch  INTEGER,
    replaces_v      INTEGER,
    replaces_origin TEXT,
    -- What the table's conflict rule must know beside the row.
    marks           TEXT,
    -- The last, so that nothing beside it is behind a large one.
    row             TEXT
) STRICT;

CREATE UNIQUE INDEX portolan_log_position ON portolan_log (epoch, tx, seq);

-- Pieces of the log that have been measured, each by its last record.
CREATE TABLE portolan_piece (
    seq       INTEGER PRIMARY KEY,
    epoch     INTEGER NOT NULL,
    tx        INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    bytes     INTEGER NOT NULL,
    newest_us INTEGER NOT NULL
) STRICT;

-- Up to where the log has been trimmed: of each epoch the last record that was. Nothing at or before the highest of them is read again.
CREATE TABLE portolan_trimmed (
    epoch INTEGER PRIMARY KEY,
    tx    INTEGER NOT NULL,
    seq   INTEGER NOT NULL
) STRICT;

-- Who follows this log, and how far each has come.
CREATE TABLE portolan_peer (
    name              TEXT    PRIMARY KEY,
    system            TEXT    NOT NULL,
    timeline          INTEGER NOT NULL,
    incarnation       TEXT    NOT NULL,
    received_epoch    INTEGER NOT NULL,
    received_tx       INTEGER NOT NULL,
    received_seq      INTEGER NOT NULL,
    applied_epoch     INTEGER NOT NULL,
    applied_tx        INTEGER NOT NULL,
    applied_seq       INTEGER NOT NULL,
    acknowledged_us   INTEGER NOT NULL,
    -- Since when it holds nothing any more, and must begin anew from a snapshot.
    needs_snapshot_us INTEGER
) STRICT, WITHOUT ROWID;

-- The version of each row that was ever written here, and of each that was deleted.
CREATE TABLE portolan_row (
    table_name      TEXT    NOT NULL,
    key             TEXT    NOT NULL,
    tenant          TEXT,
    placement       INTEGER NOT NULL,
    epoch           INTEGER NOT NULL,
    v               INTEGER NOT NULL,
    origin          TEXT    NOT NULL,
    replaces_epoch  INTEGER,
    replaces_v      INTEGER,
    replaces_origin TEXT,
    deleted         INTEGER NOT NULL CHECK (deleted IN (0, 1)),
    -- Of a tombstone, in which round it came here; 0 of a row.
    round           INTEGER NOT NULL DEFAULT 0,
    -- What the table's conflict rule must know beside the row.
    marks           TEXT,
    PRIMARY KEY (table_name, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX portolan_row_tenant ON portolan_row (tenant, table_name, key, placement);
CREATE INDEX portolan_row_tombstone ON portolan_row (round) WHERE deleted = 1;

-- Tenants that were ever held or moved; all others are here, with placement 0.
CREATE TABLE portolan_tenant (
    tenant    TEXT    PRIMARY KEY,
    placement INTEGER NOT NULL DEFAULT 0,
    forgotten INTEGER NOT NULL DEFAULT 0,
    hold      TEXT,
    -- When the hold ends by itself; NULL once its end is for the control store to decide.
    hold_until_us INTEGER,
    away      INTEGER NOT NULL DEFAULT 0 CHECK (away IN (0, 1))
) STRICT, WITHOUT ROWID;

-- Moves of tenants from here ('out') and to here ('in') that have begun and are not over.
CREATE TABLE portolan_move (
    tenant   TEXT    NOT NULL,
    side     TEXT    NOT NULL CHECK (side IN ('in', 'out')),
    id       TEXT    NOT NULL,
    step     TEXT    NOT NULL,
    detail   TEXT    NOT NULL,
    began_us INTEGER NOT NULL,
    PRIMARY KEY (tenant, side)
) STRICT, WITHOUT ROWID;

-- How far the logs of others have been applied here.
CREATE TABLE portolan_progress (
    source       TEXT    PRIMARY KEY,
    system       TEXT    NOT NULL,
    timeline     INTEGER NOT NULL,
    incarnation  TEXT    NOT NULL,
    epoch        INTEGER NOT NULL,
    tx           INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    staged_epoch INTEGER,
    staged_tx    INTEGER,
    staged_seq   INTEGER,
    -- When the last record that was received was written, by its log.
    seen_us      INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- The node of this region that follows others' logs, and what it says of this copy to the other nodes. A file has one node, and no row here.
CREATE TABLE portolan_follower (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    node     TEXT    NOT NULL,
    until_us INTEGER NOT NULL,
    note     TEXT    NOT NULL,
    noted_us INTEGER NOT NULL
) STRICT;

-- Parts of transactions that are too large for one batch, until the last is there.
CREATE TABLE portolan_staged (
    source TEXT    NOT NULL,
    epoch  INTEGER NOT NULL,
    tx     INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    record TEXT    NOT NULL,
    PRIMARY KEY (source, epoch, tx, seq)
) STRICT, WITHOUT ROWID;

-- Epochs that have begun, here or elsewhere, each with up to where of every log what was written before it counts.
CREATE TABLE portolan_term (
    epoch INTEGER PRIMARY KEY,
    term  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What came of others' logs, batch by batch, as long as some copy may lack it or must take it back.
CREATE TABLE portolan_tail (
    source TEXT NOT NULL,
    epoch  INTEGER NOT NULL,
    tx     INTEGER NOT NULL,
    seq    INTEGER NOT NULL,
    batch  TEXT NOT NULL,
    PRIMARY KEY (source, epoch, tx, seq)
) STRICT, WITHOUT ROWID;

-- Rows that were taken past a cut, in which version, until the present primary has said what they are.
CREATE TABLE portolan_stale (
    table_name TEXT NOT NULL,
    key        TEXT NOT NULL,
    tenant     TEXT,
    epoch      INTEGER NOT NULL,
    v          INTEGER NOT NULL,
    origin     TEXT NOT NULL,
    PRIMARY KEY (table_name, key)
) STRICT, WITHOUT ROWID;

-- How far the rows of others' shards have been copied here, and from where their logs are followed then. `clean`: all that was here came from
-- that very log.
CREATE TABLE portolan_copying (
    source      TEXT    PRIMARY KEY,
    system      TEXT    NOT NULL,
    timeline    INTEGER NOT NULL,
    incarnation TEXT    NOT NULL,
    epoch       INTEGER NOT NULL,
    tx          INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    clean       INTEGER NOT NULL CHECK (clean IN (0, 1)),
    table_name  TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    rows        INTEGER NOT NULL,
    -- How far that source had come through the others' logs.
    others      TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- Rows that were not among those, and go with the last.
CREATE TABLE portolan_gone (
    source     TEXT NOT NULL,
    table_name TEXT NOT NULL,
    key        TEXT NOT NULL,
    tenant     TEXT,
    PRIMARY KEY (source, table_name, key)
) STRICT, WITHOUT ROWID;

-- Versions that lost without having been known to the winner: what lost, and what stayed.
CREATE TABLE portolan_conflict (
    table_name  TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    lost_epoch  INTEGER NOT NULL,
    lost_v      INTEGER NOT NULL,
    lost_origin TEXT    NOT NULL,
    won_epoch   INTEGER NOT NULL,
    won_v       INTEGER NOT NULL,
    won_origin  TEXT    NOT NULL,
    -- A hash of all these: the same in every region and every copy.
    id          TEXT    NOT NULL,
    rule        TEXT    NOT NULL,
    kind        TEXT    NOT NULL,
    tenant      TEXT,
    placement   INTEGER NOT NULL,
    row         TEXT,
    winner      TEXT,
    at_us       INTEGER NOT NULL,
    -- The transaction that wrote it, of a record past its epoch's cut.
    written_by  TEXT,
    PRIMARY KEY (table_name, key, lost_epoch, lost_v, lost_origin, won_epoch, won_v, won_origin)
) STRICT, WITHOUT ROWID;

CREATE INDEX portolan_conflict_at ON portolan_conflict (at_us, id);
CREATE INDEX portolan_conflict_id ON portolan_conflict (id);
CREATE INDEX portolan_conflict_tenant ON portolan_conflict (tenant, at_us, id);

-- Changes that the database did not take, each on its own, until they can be applied.
CREATE TABLE portolan_parked (
    table_name TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    epoch      INTEGER NOT NULL,
    v          INTEGER NOT NULL,
    origin     TEXT    NOT NULL,
    tenant     TEXT,
    placement  INTEGER NOT NULL,
    record     TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    why        TEXT    NOT NULL,
    at_us      INTEGER NOT NULL,
    PRIMARY KEY (table_name, key, epoch, v, origin)
) STRICT, WITHOUT ROWID;

-- Migrations of the tenants' schema that have begun here. One without an end is half done: `statements` of it are.
CREATE TABLE portolan_schema (
    version     INTEGER PRIMARY KEY,
    name        TEXT    NOT NULL,
    checksum    TEXT    NOT NULL,
    kind        TEXT    NOT NULL CHECK (kind IN ('backfill', 'contract', 'expand')),
    -- The version that this one takes back.
    compensates INTEGER,
    -- Was it run here, was the database so when it was adopted, or do its rows come by the log?
    how         TEXT    NOT NULL CHECK (how IN ('ran', 'adopted', 'log')),
    statements  INTEGER NOT NULL,
    began_us    INTEGER NOT NULL,
    finished_us INTEGER
) STRICT;

-- What the triggers of declared tables were made of.
CREATE TABLE portolan_declared (
    table_name TEXT PRIMARY KEY,
    made       TEXT NOT NULL,
    -- While rows that were there before are given versions: the key of the last that has one, '' when none has.
    adopting   TEXT
) STRICT, WITHOUT ROWID;

-- What holds for one transaction: is it the applier's, and for which tenant does it write. A row here breaks a reference
-- that is checked at commit, so that no transaction can leave one behind.
CREATE TABLE portolan_never (id INTEGER PRIMARY KEY CHECK (id IS NULL)) STRICT;

CREATE TABLE portolan_session (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    applying INTEGER NOT NULL CHECK (applying IN (0, 1)),
    tenant   TEXT,
    never    INTEGER NOT NULL DEFAULT 0 REFERENCES portolan_never (id) DEFERRABLE INITIALLY DEFERRED
) STRICT;
