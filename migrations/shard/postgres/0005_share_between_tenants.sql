-- Shares between two tenants: the source's row decides, and the target has a copy of it under its own name.

-- The other tenant: in the target's copy whose content it is, in the source's row who gets it. '' is the tenant of the row itself.
ALTER TABLE portolan.content_share ADD COLUMN source_tenant text NOT NULL DEFAULT '';
ALTER TABLE portolan.content_share ADD COLUMN target_tenant text NOT NULL DEFAULT '';

-- Members of JSON contents that the target sees, as a JSON list; 'null' for all. The mask wins.
ALTER TABLE portolan.content_share ADD COLUMN fields text NOT NULL DEFAULT 'null';

DROP INDEX portolan.content_share_place;

CREATE UNIQUE INDEX content_share_place ON portolan.content_share
    (tenant, source_tenant, source_site, target_tenant, target_site, scope_kind, scope_ref)
    WHERE status <> 'revoked';

-- What has to be looked after without being asked.
CREATE INDEX content_share_tended ON portolan.content_share (tenant, share)
    WHERE status = 'accepted' AND (eager = 1 OR source_tenant <> '');

-- The source's item may be another tenant's, which has another name here and stands in no table.
ALTER TABLE portolan.content_sync_mapping DROP CONSTRAINT content_sync_mapping_tenant_source_item_fkey;
