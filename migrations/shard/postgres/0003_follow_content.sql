-- Content in other regions: who wrote a change says the epoch in which it was, so that two regions find where their histories part.

ALTER TABLE portolan.content_log ADD COLUMN epoch bigint NOT NULL DEFAULT 0;

-- Each entry names the one before by this: who changes one changes all that follow. '' of those from before.
ALTER TABLE portolan.content_log ADD COLUMN digest text NOT NULL DEFAULT '';

CREATE INDEX content_log_epoch ON portolan.content_log (tenant, epoch, seq);

-- What was written here and had not come to the region that wrote the next epoch. The lists and bytes of it are still here.
CREATE TABLE portolan.content_stranded (
    tenant  text    NOT NULL,
    epoch   bigint  NOT NULL,
    seq     bigint  NOT NULL,
    kind    text    NOT NULL CHECK (kind IN ('version', 'share')),
    site    text    NOT NULL,
    subject text    NOT NULL,
    detail  text    NOT NULL,
    -- Of a version: its content, or ''.
    root    text    NOT NULL,
    bytes   bigint  NOT NULL,
    at_ms   bigint  NOT NULL,
    PRIMARY KEY (tenant, epoch, seq)
);

-- What an item follows is asked whenever it is read.
CREATE INDEX content_sync_mapping_target ON portolan.content_sync_mapping (tenant, target_item);
