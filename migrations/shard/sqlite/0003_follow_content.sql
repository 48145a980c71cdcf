-- Content in other regions: who wrote a change says the epoch in which it was, so that two regions find where their histories part.

ALTER TABLE portolan_content_log ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;

-- Each entry names the one before by this: who changes one changes all that follow. '' of those from before.
ALTER TABLE portolan_content_log ADD COLUMN digest TEXT NOT NULL DEFAULT '';

CREATE INDEX portolan_content_log_epoch ON portolan_content_log (tenant, epoch, seq);

-- What was written here and had not come to the region that wrote the next epoch. The lists and bytes of it are still here.
CREATE TABLE portolan_content_stranded (
    tenant  TEXT    NOT NULL,
    epoch   INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    kind    TEXT    NOT NULL CHECK (kind IN ('version', 'share')),
    site    TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    detail  TEXT    NOT NULL,
    -- Of a version: its content, or ''.
    root    TEXT    NOT NULL,
    bytes   INTEGER NOT NULL,
    at_ms   INTEGER NOT NULL,
    PRIMARY KEY (tenant, epoch, seq)
) STRICT, WITHOUT ROWID;

-- What an item follows is asked whenever it is read.
CREATE INDEX portolan_content_sync_mapping_target ON portolan_content_sync_mapping (tenant, target_item);
