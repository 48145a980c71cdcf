-- Content of tenants: items, their versions, where their bytes are, who shares what. Nothing here is captured: content moves between regions by
-- its own log, never with rows. Names of bytes are hexadecimal; times are milliseconds since 1970.

-- A tenant that has content. Whoever writes content of it locks this row first.
CREATE TABLE portolan_content_account (
    tenant      TEXT    PRIMARY KEY,
    -- The secrets of its names and of its indexes, wrapped.
    secret      BLOB    NOT NULL,
    -- The number of the last change, and the hybrid clock of the last version.
    seq         INTEGER NOT NULL,
    clock_ms    INTEGER NOT NULL,
    clock_count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE portolan_content_item (
    tenant TEXT NOT NULL REFERENCES portolan_content_account (tenant),
    item   TEXT NOT NULL,
    site   TEXT NOT NULL,
    name   TEXT NOT NULL,
    media  TEXT NOT NULL,
    kind   TEXT NOT NULL CHECK (kind IN ('binary', 'json', 'text')),
    -- Its data keys, wrapped for each tenant and region that reads it.
    keys   BLOB NOT NULL,
    PRIMARY KEY (tenant, item),
    UNIQUE (tenant, site, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE portolan_content_version (
    tenant  TEXT    NOT NULL,
    item    TEXT    NOT NULL,
    version TEXT    NOT NULL,
    -- The change that brought it here.
    seq     INTEGER NOT NULL,
    record  BLOB    NOT NULL,
    -- '' of a deletion.
    root    TEXT    NOT NULL,
    bytes   INTEGER NOT NULL,
    at_ms   INTEGER NOT NULL,
    PRIMARY KEY (tenant, item, version),
    FOREIGN KEY (tenant, item) REFERENCES portolan_content_item (tenant, item)
) STRICT, WITHOUT ROWID;

CREATE INDEX portolan_content_version_seq ON portolan_content_version (tenant, item, seq);

-- Versions that no other has seen; more than one is a conflict. One of them is shown.
CREATE TABLE portolan_content_head (
    tenant  TEXT    NOT NULL,
    item    TEXT    NOT NULL,
    version TEXT    NOT NULL,
    shown   INTEGER NOT NULL CHECK (shown IN (0, 1)),
    PRIMARY KEY (tenant, item, version),
    FOREIGN KEY (tenant, item, version) REFERENCES portolan_content_version (tenant, item, version)
) STRICT, WITHOUT ROWID;

-- The sealed list of a content, in parts; of a small one, its bytes.
CREATE TABLE portolan_content_part (
    tenant TEXT    NOT NULL,
    item   TEXT    NOT NULL,
    root   TEXT    NOT NULL,
    part   INTEGER NOT NULL,
    -- Which of the item's data keys seals it.
    term   INTEGER NOT NULL,
    -- What it has of the content.
    bytes  INTEGER NOT NULL,
    small  INTEGER NOT NULL CHECK (small IN (0, 1)),
    sealed BLOB    NOT NULL,
    PRIMARY KEY (tenant, item, root, part),
    FOREIGN KEY (tenant, item) REFERENCES portolan_content_item (tenant, item)
) STRICT;

CREATE INDEX portolan_content_part_root ON portolan_content_part (tenant, root);

-- Packs of chunks in the store of objects. A doomed one is found by nobody, and deleted.
CREATE TABLE portolan_content_pack (
    tenant   TEXT    NOT NULL REFERENCES portolan_content_account (tenant),
    pack     TEXT    NOT NULL,
    bytes    INTEGER NOT NULL,
    state    TEXT    NOT NULL CHECK (state IN ('live', 'quarantined', 'doomed')),
    since_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, pack)
) STRICT, WITHOUT ROWID;

CREATE TABLE portolan_content_chunk (
    tenant          TEXT    NOT NULL,
    chunk           TEXT    NOT NULL,
    pack            TEXT    NOT NULL,
    at              INTEGER NOT NULL,
    sealed_bytes    INTEGER NOT NULL,
    bytes           INTEGER NOT NULL,
    coding          TEXT    NOT NULL CHECK (coding IN ('raw', 'zstd')),
    -- Its key, sealed with the tenant's.
    key             BLOB    NOT NULL,
    leased_until_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, chunk),
    FOREIGN KEY (tenant, pack) REFERENCES portolan_content_pack (tenant, pack)
) STRICT, WITHOUT ROWID;

CREATE INDEX portolan_content_chunk_pack ON portolan_content_chunk (tenant, pack);

-- Which items have a chunk.
CREATE TABLE portolan_content_use (
    tenant TEXT NOT NULL,
    chunk  TEXT NOT NULL,
    item   TEXT NOT NULL,
    PRIMARY KEY (tenant, chunk, item),
    FOREIGN KEY (tenant, chunk) REFERENCES portolan_content_chunk (tenant, chunk),
    FOREIGN KEY (tenant, item) REFERENCES portolan_content_item (tenant, item)
) STRICT, WITHOUT ROWID;

-- Contents that are on their way, with what came of them: whole chunks, and the bytes since the last cut.
CREATE TABLE portolan_content_upload (
    tenant     TEXT    NOT NULL REFERENCES portolan_content_account (tenant),
    upload     TEXT    NOT NULL,
    site       TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    media      TEXT    NOT NULL,
    -- What the item is to be for it to be taken: a condition in the service's own form.
    wanted     TEXT    NOT NULL,
    total      INTEGER NOT NULL,
    received   INTEGER NOT NULL,
    chunks     INTEGER NOT NULL,
    tail       BLOB    NOT NULL,
    expires_ms INTEGER NOT NULL,
    PRIMARY KEY (tenant, upload)
) STRICT, WITHOUT ROWID;

CREATE TABLE portolan_content_upload_part (
    tenant  TEXT    NOT NULL,
    upload  TEXT    NOT NULL,
    -- The number of its first chunk.
    first   INTEGER NOT NULL,
    entries BLOB    NOT NULL,
    PRIMARY KEY (tenant, upload, first),
    FOREIGN KEY (tenant, upload) REFERENCES portolan_content_upload (tenant, upload) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- Which site shares what with which, where, and how far both agree.
CREATE TABLE portolan_content_share (
    tenant          TEXT    NOT NULL REFERENCES portolan_content_account (tenant),
    share           TEXT    NOT NULL,
    source_site     TEXT    NOT NULL,
    target_site     TEXT    NOT NULL,
    scope_kind      TEXT    NOT NULL CHECK (scope_kind IN ('item', 'collection', 'content_type', 'all')),
    scope_ref       TEXT    NOT NULL,
    mode            TEXT    NOT NULL CHECK (mode IN ('mirror', 'fork_follow', 'copy_once', 'co_edit')),
    direction       TEXT    NOT NULL CHECK (direction IN ('push', 'pull', 'both')),
    can_read        INTEGER NOT NULL CHECK (can_read IN (0, 1)),
    can_update      INTEGER NOT NULL CHECK (can_update IN (0, 1)),
    can_reshare     INTEGER NOT NULL CHECK (can_reshare IN (0, 1)),
    can_export      INTEGER NOT NULL CHECK (can_export IN (0, 1)),
    -- Lists of regions as JSON; allowed is 'null' where all are. Denied wins.
    allowed_regions TEXT    NOT NULL,
    denied_regions  TEXT    NOT NULL,
    eager           INTEGER NOT NULL CHECK (eager IN (0, 1)),
    max_bytes       INTEGER NOT NULL,
    -- Members of JSON contents that the target does not see, as a JSON list.
    field_mask      TEXT    NOT NULL,
    status          TEXT    NOT NULL CHECK (status IN ('offered', 'accepted', 'suspended', 'revoked')),
    not_before_ms   INTEGER NOT NULL,
    expires_ms      INTEGER NOT NULL,
    policy_epoch    INTEGER NOT NULL,
    PRIMARY KEY (tenant, share)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX portolan_content_share_place ON portolan_content_share (tenant, source_site, target_site, scope_kind, scope_ref)
    WHERE status <> 'revoked';

-- Which item of the target is the copy of which item of the source, and of which of its versions.
CREATE TABLE portolan_content_sync_mapping (
    tenant              TEXT NOT NULL,
    share               TEXT NOT NULL,
    source_item         TEXT NOT NULL,
    target_site         TEXT NOT NULL,
    target_item         TEXT NOT NULL,
    base_version        TEXT NOT NULL,
    last_synced_version TEXT NOT NULL,
    state               TEXT NOT NULL CHECK (state IN ('synced', 'forked')),
    PRIMARY KEY (tenant, share, source_item),
    FOREIGN KEY (tenant, share) REFERENCES portolan_content_share (tenant, share),
    FOREIGN KEY (tenant, source_item) REFERENCES portolan_content_item (tenant, item),
    FOREIGN KEY (tenant, target_item) REFERENCES portolan_content_item (tenant, item)
) STRICT, WITHOUT ROWID;

-- What happened, in the order of its numbers: what feeds, and other regions, read on from a number.
CREATE TABLE portolan_content_log (
    tenant  TEXT    NOT NULL REFERENCES portolan_content_account (tenant),
    seq     INTEGER NOT NULL,
    kind    TEXT    NOT NULL CHECK (kind IN ('version', 'share')),
    site    TEXT    NOT NULL,
    -- The item's name, or the share.
    subject TEXT    NOT NULL,
    -- The version, or the share's status.
    detail  TEXT    NOT NULL,
    at_ms   INTEGER NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
