-- Shares between two tenants: the source's row decides, and the target has a copy of it under its own name.

-- The other tenant: in the target's copy whose content it is, in the source's row who gets it. '' is the tenant of the row itself.
ALTER TABLE portolan_content_share ADD COLUMN source_tenant TEXT NOT NULL DEFAULT '';
ALTER TABLE portolan_content_share ADD COLUMN target_tenant TEXT NOT NULL DEFAULT '';

-- Members of JSON contents that the target sees, as a JSON list; 'null' for all. The mask wins.
ALTER TABLE portolan_content_share ADD COLUMN fields TEXT NOT NULL DEFAULT 'null';

DROP INDEX portolan_content_share_place;

CREATE UNIQUE INDEX portolan_content_share_place ON portolan_content_share
    (tenant, source_tenant, source_site, target_tenant, target_site, scope_kind, scope_ref)
    WHERE status <> 'revoked';

-- What has to be looked after without being asked.
CREATE INDEX portolan_content_share_tended ON portolan_content_share (tenant, share)
    WHERE status = 'accepted' AND (eager = 1 OR source_tenant <> '');

-- The source's item may be another tenant's, which has another name here and stands in no table.
CREATE TABLE portolan_content_sync_mapping_next (
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
    FOREIGN KEY (tenant, target_item) REFERENCES portolan_content_item (tenant, item)
) STRICT, WITHOUT ROWID;

INSERT INTO portolan_content_sync_mapping_next
    SELECT tenant, share, source_item, target_site, target_item, base_version, last_synced_version, state
    FROM portolan_content_sync_mapping;

DROP TABLE portolan_content_sync_mapping;

ALTER TABLE portolan_content_sync_mapping_next RENAME TO portolan_content_sync_mapping;

CREATE INDEX portolan_content_sync_mapping_target ON portolan_content_sync_mapping (tenant, target_item);
