-- Content of tenants: items, their versions, where their bytes are, who shares what. Nothing here is captured: content moves between regions by
-- its own log, never with rows. Names of bytes are hexadecimal; times are milliseconds since 1970.

-- A tenant that has content. Whoever writes content of it locks this row first.
CREATE TABLE portolan.content_account (
    tenant      text    PRIMARY KEY,
    -- The secrets of its names and of its indexes, wrapped.
    secret      bytea    NOT NULL,
    -- The number of the last change, and the hybrid clock of the last version.
    seq         bigint  NOT NULL,
    clock_ms    bigint  NOT NULL,
    clock_count bigint  NOT NULL
);

CREATE TABLE portolan.content_item (
    tenant text NOT NULL REFERENCES portolan.content_account (tenant),
    item   text NOT NULL,
    site   text NOT NULL,
    name   text NOT NULL,
    media  text NOT NULL,
    kind   text NOT NULL CHECK (kind IN ('binary', 'json', 'text')),
    -- Its data keys, wrapped for each tenant and region that reads it.
    keys   bytea NOT NULL,
    PRIMARY KEY (tenant, item),
    UNIQUE (tenant, site, name)
);

CREATE TABLE portolan.content_version (
    tenant  text    NOT NULL,
    item    text    NOT NULL,
    version text    NOT NULL,
    -- The change that brought it here.
    seq     bigint  NOT NULL,
    record  bytea    NOT NULL,
    -- '' of a deletion.
    root    text    NOT NULL,
    bytes   bigint  NOT NULL,
    at_ms   bigint  NOT NULL,
    PRIMARY KEY (tenant, item, version),
    FOREIGN KEY (tenant, item) REFERENCES portolan.content_item (tenant, item)
);

CREATE INDEX content_version_seq ON portolan.content_version (tenant, item, seq);

-- Versions that no other has seen; more than one is a conflict. One of them is shown.
CREATE TABLE portolan.content_head (
    tenant  text    NOT NULL,
    item    text    NOT NULL,
    version text    NOT NULL,
    shown   bigint  NOT NULL CHECK (shown IN (0, 1)),
    PRIMARY KEY (tenant, item, version),
    FOREIGN KEY (tenant, item, version) REFERENCES portolan.content_version (tenant, item, version)
);

-- The sealed list of a content, in parts; of a small one, its bytes.
CREATE TABLE portolan.content_part (
    tenant text    NOT NULL,
    item   text    NOT NULL,
    root   text    NOT NULL,
    part   bigint  NOT NULL,
    -- Which of the item's data keys seals it.
    term   bigint  NOT NULL,
    -- What it has of the content.
    bytes  bigint  NOT NULL,
    small  bigint  NOT NULL CHECK (small IN (0, 1)),
    sealed bytea    NOT NULL,
    PRIMARY KEY (tenant, item, root, part),
    FOREIGN KEY (tenant, item) REFERENCES portolan.content_item (tenant, item)
);

CREATE INDEX content_part_root ON portolan.content_part (tenant, root);

-- Packs of chunks in the store of objects. A doomed one is found by nobody, and deleted.
CREATE TABLE portolan.content_pack (
    tenant   text    NOT NULL REFERENCES portolan.content_account (tenant),
    pack     text    NOT NULL,
    bytes    bigint  NOT NULL,
    state    text    NOT NULL CHECK (state IN ('live', 'quarantined', 'doomed')),
    since_ms bigint  NOT NULL,
    PRIMARY KEY (tenant, pack)
);

CREATE TABLE portolan.content_chunk (
    tenant          text    NOT NULL,
    chunk           text    NOT NULL,
    pack            text    NOT NULL,
    at              bigint  NOT NULL,
    sealed_bytes    bigint  NOT NULL,
    bytes           bigint  NOT NULL,
    coding          text    NOT NULL CHECK (coding IN ('raw', 'zstd')),
    -- Its key, sealed with the tenant's.
    key             bytea    NOT NULL,
    leased_until_ms bigint  NOT NULL,
    PRIMARY KEY (tenant, chunk),
    FOREIGN KEY (tenant, pack) REFERENCES portolan.content_pack (tenant, pack)
);

CREATE INDEX content_chunk_pack ON portolan.content_chunk (tenant, pack);

-- Which items have a chunk.
CREATE TABLE portolan.content_use (
    tenant text NOT NULL,
    chunk  text NOT NULL,
    item   text NOT NULL,
    PRIMARY KEY (tenant, chunk, item),
    FOREIGN KEY (tenant, chunk) REFERENCES portolan.content_chunk (tenant, chunk),
    FOREIGN KEY (tenant, item) REFERENCES portolan.content_item (tenant, item)
);

-- Contents that are on their way, with what came of them: whole chunks, and the bytes since the last cut.
CREATE TABLE portolan.content_upload (
    tenant     text    NOT NULL REFERENCES portolan.content_account (tenant),
    upload     text    NOT NULL,
    site       text    NOT NULL,
    name       text    NOT NULL,
    media      text    NOT NULL,
    -- What the item is to be for it to be taken: a condition in the service's own form.
    wanted     text    NOT NULL,
    total      bigint  NOT NULL,
    received   bigint  NOT NULL,
    chunks     bigint  NOT NULL,
    tail       bytea    NOT NULL,
    expires_ms bigint  NOT NULL,
    PRIMARY KEY (tenant, upload)
);

CREATE TABLE portolan.content_upload_part (
    tenant  text    NOT NULL,
    upload  text    NOT NULL,
    -- The number of its first chunk.
    first   bigint  NOT NULL,
    entries bytea    NOT NULL,
    PRIMARY KEY (tenant, upload, first),
    FOREIGN KEY (tenant, upload) REFERENCES portolan.content_upload (tenant, upload) ON DELETE CASCADE
);

-- Which site shares what with which, where, and how far both agree.
CREATE TABLE portolan.content_share (
    tenant          text    NOT NULL REFERENCES portolan.content_account (tenant),
    share           text    NOT NULL,
    source_site     text    NOT NULL,
    target_site     text    NOT NULL,
    scope_kind      text    NOT NULL CHECK (scope_kind IN ('item', 'collection', 'content_type', 'all')),
    scope_ref       text    NOT NULL,
    mode            text    NOT NULL CHECK (mode IN ('mirror', 'fork_follow', 'copy_once', 'co_edit')),
    direction       text    NOT NULL CHECK (direction IN ('push', 'pull', 'both')),
    can_read        bigint  NOT NULL CHECK (can_read IN (0, 1)),
    can_update      bigint  NOT NULL CHECK (can_update IN (0, 1)),
    can_reshare     bigint  NOT NULL CHECK (can_reshare IN (0, 1)),
    can_export      bigint  NOT NULL CHECK (can_export IN (0, 1)),
    -- Lists of regions as JSON; allowed is 'null' where all are. Denied wins.
    allowed_regions text    NOT NULL,
    denied_regions  text    NOT NULL,
    eager           bigint  NOT NULL CHECK (eager IN (0, 1)),
    max_bytes       bigint  NOT NULL,
    -- Members of JSON contents that the target does not see, as a JSON list.
    field_mask      text    NOT NULL,
    status          text    NOT NULL CHECK (status IN ('offered', 'accepted', 'suspended', 'revoked')),
    not_before_ms   bigint  NOT NULL,
    expires_ms      bigint  NOT NULL,
    policy_epoch    bigint  NOT NULL,
    PRIMARY KEY (tenant, share)
);

CREATE UNIQUE INDEX content_share_place ON portolan.content_share (tenant, source_site, target_site, scope_kind, scope_ref)
    WHERE status <> 'revoked';

-- Which item of the target is the copy of which item of the source, and of which of its versions.
CREATE TABLE portolan.content_sync_mapping (
    tenant              text NOT NULL,
    share               text NOT NULL,
    source_item         text NOT NULL,
    target_site         text NOT NULL,
    target_item         text NOT NULL,
    base_version        text NOT NULL,
    last_synced_version text NOT NULL,
    state               text NOT NULL CHECK (state IN ('synced', 'forked')),
    PRIMARY KEY (tenant, share, source_item),
    FOREIGN KEY (tenant, share) REFERENCES portolan.content_share (tenant, share),
    FOREIGN KEY (tenant, source_item) REFERENCES portolan.content_item (tenant, item),
    FOREIGN KEY (tenant, target_item) REFERENCES portolan.content_item (tenant, item)
);

-- What happened, in the order of its numbers: what feeds, and other regions, read on from a number.
CREATE TABLE portolan.content_log (
    tenant  text    NOT NULL REFERENCES portolan.content_account (tenant),
    seq     bigint  NOT NULL,
    kind    text    NOT NULL CHECK (kind IN ('version', 'share')),
    site    text    NOT NULL,
    -- The item's name, or the share.
    subject text    NOT NULL,
    -- The version, or the share's status.
    detail  text    NOT NULL,
    at_ms   bigint  NOT NULL,
    PRIMARY KEY (tenant, seq)
);
