-- What portolan keeps in a shard beside the operator's tables. All times are microseconds of this database's clock.
CREATE SCHEMA portolan;

-- The fence, and which log this is. One row. `epoch` and `changes` are a key, so that a transaction with an old snapshot cannot
-- lock the row once they have changed, while renewals of the deadline disturb nobody.
CREATE TABLE portolan.fence (
    id          bigint  PRIMARY KEY CHECK (id = 1),
    epoch       bigint  NOT NULL CHECK (epoch >= 0),
    changes     bigint  NOT NULL,
    deadline_us bigint  NOT NULL,
    member      bigint  NOT NULL CHECK (member >= 0),
    origin      text    NOT NULL COLLATE "C",
    schema      bigint  NOT NULL,
    system      text    NOT NULL,
    timeline    bigint  NOT NULL,
    incarnation text    NOT NULL,
    -- The history was cut: a new epoch must begin before anything is written.
    cut         bigint  NOT NULL CHECK (cut IN (0, 1)),
    -- The role that applies; no other's loop flag is believed.
    applier     text,
    -- Which piece of the log is written.
    piece       smallint NOT NULL DEFAULT 0,
    -- Tombstones are stamped with it, and swept by it.
    round       bigint  NOT NULL DEFAULT 1,
    -- Tombstones of the rounds before this one have been swept.
    swept       bigint  NOT NULL DEFAULT 0,
    -- Where triggers write records: into the log when NULL; otherwise into the write-ahead log, from which they are shipped. Then this is the
    -- word that each of them begins with, because every role may emit messages and only the owner's functions and the applier read this row.
    emits       text,
    UNIQUE (epoch, changes)
);

CREATE SEQUENCE portolan.log_seq;

-- The log is a ring of pieces, which are made here once: a piece is emptied as a whole, without a statement that deletes rows, and
-- no writer ever waits for a piece to be made. Positions alone order records, whichever piece they lie in.
CREATE TABLE portolan.log (
    epoch           bigint NOT NULL,
    tx              bigint NOT NULL,
    seq             bigint NOT NULL DEFAULT nextval('portolan.log_seq'),
    at_us           bigint NOT NULL,
    tenant          text CHECK (tenant ~ '^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$'),
    placement       bigint NOT NULL,
    schema          bigint NOT NULL,
    kind            text   NOT NULL CHECK (kind IN ('put', 'delete', 'forget')),
    table_name      text,
    key             text,
    row             jsonb,
    -- How much a reader takes with it, so that what does not fit need not be read.
    bytes           integer GENERATED ALWAYS AS (octet_length(coalesce(row::text, '')) + octet_length(coalesce(marks::text, ''))) STORED,
    version_epoch   bigint,
    v               bigint,
    origin          text COLLATE "C",
    replaces_epoch  bigint,
    replaces_v      bigint,
    replaces_origin text COLLATE "C",
    -- What the table's conflict rule must know beside the row.
    marks           jsonb,
    piece           smallint NOT NULL,
    PRIMARY KEY (epoch, tx, seq, piece)
) PARTITION BY LIST (piece);

CREATE TABLE portolan.log_0 PARTITION OF portolan.log FOR VALUES IN (0);
CREATE TABLE portolan.log_1 PARTITION OF portolan.log FOR VALUES IN (1);
CREATE TABLE portolan.log_2 PARTITION OF portolan.log FOR VALUES IN (2);
CREATE TABLE portolan.log_3 PARTITION OF portolan.log FOR VALUES IN (3);
CREATE TABLE portolan.log_4 PARTITION OF portolan.log FOR VALUES IN (4);
CREATE TABLE portolan.log_5 PARTITION OF portolan.log FOR VALUES IN (5);
CREATE TABLE portolan.log_6 PARTITION OF portolan.log FOR VALUES IN (6);
CREATE TABLE portolan.log_7 PARTITION OF portolan.log FOR VALUES IN (7);
-- Somebody may take a piece away by hand: what would be written into it lies here.
CREATE TABLE portolan.log_rest PARTITION OF portolan.log DEFAULT;

-- What has been shipped from the write-ahead log, while triggers emit records. One row then.
CREATE TABLE portolan.shipped (
    id      bigint PRIMARY KEY CHECK (id = 1),
    -- The end of the last transaction whose records are all in the log.
    lsn     pg_lsn NOT NULL,
    -- Records of all transactions with lower numbers are in the log.
    horizon bigint NOT NULL,
    -- What was committed before then is in the log.
    at_us   bigint NOT NULL
);

-- Up to where the log has been trimmed: of each epoch the last record that was. Nothing at or before the highest of them is read again.
CREATE TABLE portolan.trimmed (
    epoch bigint PRIMARY KEY,
    tx    bigint NOT NULL,
    seq   bigint NOT NULL
);

-- Who follows this log, and how far each has come.
CREATE TABLE portolan.peer (
    name              text   PRIMARY KEY COLLATE "C",
    system            text   NOT NULL,
    timeline          bigint NOT NULL,
    incarnation       text   NOT NULL,
    received_epoch    bigint NOT NULL,
    received_tx       bigint NOT NULL,
    received_seq      bigint NOT NULL,
    applied_epoch     bigint NOT NULL,
    applied_tx        bigint NOT NULL,
    applied_seq       bigint NOT NULL,
    acknowledged_us   bigint NOT NULL,
    -- Since when it holds nothing any more, and must begin anew from a snapshot.
    needs_snapshot_us bigint
);

-- Each transaction that has entered the fence, under the lease or as a member: its row is what is looked at again at
-- commit, once, however many rows it writes.
CREATE TABLE portolan.inside (
    tx     bigint  NOT NULL,
    epoch  bigint  NOT NULL,
    leased boolean NOT NULL,
    PRIMARY KEY (tx, epoch, leased)
);

-- The version of each row that was ever written here, and of each that was deleted.
CREATE TABLE portolan.row (
    table_name      text   NOT NULL COLLATE "C",
    key             text   NOT NULL COLLATE "C",
    tenant          text,
    placement       bigint NOT NULL,
    epoch           bigint NOT NULL,
    v               bigint NOT NULL,
    origin          text   NOT NULL COLLATE "C",
    replaces_epoch  bigint,
    replaces_v      bigint,
    replaces_origin text COLLATE "C",
    deleted         bigint NOT NULL CHECK (deleted IN (0, 1)),
    -- Of a tombstone, in which round it came here; 0 of a row.
    round           bigint NOT NULL DEFAULT 0,
    -- What the table's conflict rule must know beside the row.
    marks           jsonb,
    PRIMARY KEY (table_name, key)
);

CREATE INDEX row_tenant ON portolan.row (tenant, table_name, key, placement);
CREATE INDEX row_tombstone ON portolan.row (round) WHERE deleted = 1;

-- Tenants that were ever held or moved; all others are here, with placement 0.
CREATE TABLE portolan.tenant (
    tenant    text   PRIMARY KEY,
    placement bigint NOT NULL DEFAULT 0,
    forgotten bigint NOT NULL DEFAULT 0,
    hold      text,
    -- When the hold ends by itself; NULL once its end is for the control store to decide.
    hold_until_us bigint,
    away      bigint NOT NULL DEFAULT 0 CHECK (away IN (0, 1))
);

-- Moves of tenants from here ('out') and to here ('in') that have begun and are not over.
CREATE TABLE portolan.move (
    tenant   text   NOT NULL,
    side     text   NOT NULL CHECK (side IN ('in', 'out')),
    id       text   NOT NULL,
    step     text   NOT NULL,
    detail   text   NOT NULL,
    began_us bigint NOT NULL,
    PRIMARY KEY (tenant, side)
);

-- How far the logs of others have been applied here.
CREATE TABLE portolan.progress (
    source       text   PRIMARY KEY,
    system       text   NOT NULL,
    timeline     bigint NOT NULL,
    incarnation  text   NOT NULL,
    epoch        bigint NOT NULL,
    tx           bigint NOT NULL,
    seq          bigint NOT NULL,
    staged_epoch bigint,
    staged_tx    bigint,
    staged_seq   bigint,
    -- When the last record that was received was written, by its log.
    seen_us      bigint NOT NULL DEFAULT 0
);

-- The node of this region that follows others' logs, and what it says of this copy to the other nodes.
CREATE TABLE portolan.follower (
    id       bigint PRIMARY KEY CHECK (id = 1),
    node     text   NOT NULL,
    until_us bigint NOT NULL,
    note     text   NOT NULL,
    noted_us bigint NOT NULL
);

-- Parts of transactions that are too large for one batch, until the last is there.
CREATE TABLE portolan.staged (
    source text   NOT NULL,
    epoch  bigint NOT NULL,
    tx     bigint NOT NULL,
    seq    bigint NOT NULL,
    record text   NOT NULL,
    PRIMARY KEY (source, epoch, tx, seq)
);

-- Epochs that have begun, here or elsewhere, each with up to where of every log what was written before it counts.
CREATE TABLE portolan.term (
    epoch bigint PRIMARY KEY,
    term  text NOT NULL
);

-- What came of others' logs, batch by batch, as long as some copy may lack it or must take it back.
CREATE TABLE portolan.tail (
    source text NOT NULL,
    epoch  bigint NOT NULL,
    tx     bigint NOT NULL,
    seq    bigint NOT NULL,
    batch  text NOT NULL,
    PRIMARY KEY (source, epoch, tx, seq)
);

-- Rows that were taken past a cut, in which version, until the present primary has said what they are.
CREATE TABLE portolan.stale (
    table_name text NOT NULL COLLATE "C",
    key        text NOT NULL COLLATE "C",
    tenant     text,
    epoch      bigint NOT NULL,
    v          bigint NOT NULL,
    origin     text NOT NULL COLLATE "C",
    PRIMARY KEY (table_name, key)
);

-- How far the rows of others' shards have been copied here, and from where their logs are followed then. `clean`: all that was here came from
-- that very log.
CREATE TABLE portolan.copying (
    source      text   PRIMARY KEY,
    system      text   NOT NULL,
    timeline    bigint NOT NULL,
    incarnation text   NOT NULL,
    epoch       bigint NOT NULL,
    tx          bigint NOT NULL,
    seq         bigint NOT NULL,
    clean       bigint NOT NULL CHECK (clean IN (0, 1)),
    table_name  text   NOT NULL COLLATE "C",
    key         text   NOT NULL COLLATE "C",
    rows        bigint NOT NULL,
    -- How far that source had come through the others' logs.
    others      text   NOT NULL
);

-- Rows that were not among those, and go with the last.
CREATE TABLE portolan.gone (
    source     text NOT NULL,
    table_name text NOT NULL COLLATE "C",
    key        text NOT NULL COLLATE "C",
    tenant     text,
    PRIMARY KEY (source, table_name, key)
);

-- Versions that lost without having been known to the winner: what lost, and what stayed.
CREATE TABLE portolan.conflict (
    table_name  text   NOT NULL COLLATE "C",
    key         text   NOT NULL COLLATE "C",
    lost_epoch  bigint NOT NULL,
    lost_v      bigint NOT NULL,
    lost_origin text   NOT NULL COLLATE "C",
    won_epoch   bigint NOT NULL,
    won_v       bigint NOT NULL,
    won_origin  text   NOT NULL COLLATE "C",
    -- A hash of all these: the same in every region and every copy.
    id          text   NOT NULL COLLATE "C",
    rule        text   NOT NULL,
    kind        text   NOT NULL,
    tenant      text,
    placement   bigint NOT NULL,
    row         text,
    winner      text,
    at_us       bigint NOT NULL,
    -- The transaction that wrote it, of a record past its epoch's cut.
    written_by  text,
    PRIMARY KEY (table_name, key, lost_epoch, lost_v, lost_origin, won_epoch, won_v, won_origin)
);

CREATE INDEX conflict_at ON portolan.conflict (at_us, id);
CREATE INDEX conflict_id ON portolan.conflict (id);
CREATE INDEX conflict_tenant ON portolan.conflict (tenant, at_us, id);

-- Changes that the database did not take, each on its own, until they can be applied.
CREATE TABLE portolan.parked (
    table_name text   NOT NULL COLLATE "C",
    key        text   NOT NULL COLLATE "C",
    epoch      bigint NOT NULL,
    v          bigint NOT NULL,
    origin     text   NOT NULL COLLATE "C",
    tenant     text,
    placement  bigint NOT NULL,
    record     text   NOT NULL,
    kind       text   NOT NULL,
    why        text   NOT NULL,
    at_us      bigint NOT NULL,
    PRIMARY KEY (table_name, key, epoch, v, origin)
);

-- Migrations of the tenants' schema that have begun here. One without an end is half done: `statements` of it are.
CREATE TABLE portolan.schema (
    version     bigint PRIMARY KEY,
    name        text   NOT NULL,
    checksum    text   NOT NULL,
    kind        text   NOT NULL CHECK (kind IN ('backfill', 'contract', 'expand')),
    -- The version that this one takes back.
    compensates bigint,
    -- Was it run here, was the database so when it was adopted, or do its rows come by the log?
    how         text   NOT NULL CHECK (how IN ('ran', 'adopted', 'log')),
    statements  bigint NOT NULL,
    began_us    bigint NOT NULL,
    finished_us bigint
);

-- What the triggers of declared tables were made of.
CREATE TABLE portolan.declared (
    table_name text PRIMARY KEY,
    made       text NOT NULL,
    -- While rows that were there before are given versions: the key of the last that has one, '' when none has.
    adopting   text
);

-- Bodies after RETURN are bound to what they name when they are made, whatever a caller's search path says.
CREATE FUNCTION portolan.now_us() RETURNS bigint LANGUAGE sql VOLATILE
    RETURN (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- The timeline that is being written: a promotion moves it at once.
CREATE FUNCTION portolan.timeline() RETURNS bigint LANGUAGE sql VOLATILE
    RETURN ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int::bigint;

-- The cluster and the database in it: a copy made from a template is another log.
CREATE FUNCTION portolan.system() RETURNS text LANGUAGE sql VOLATILE
    RETURN (SELECT system_identifier FROM pg_control_system())::text
        || '-' || (SELECT oid FROM pg_database WHERE datname = current_database());

-- The lowest transaction that may still bring a record. What is emitted is in the log later than it is committed.
CREATE FUNCTION portolan.horizon() RETURNS bigint LANGUAGE sql STABLE
    RETURN coalesce((SELECT s.horizon FROM portolan.fence f, portolan.shipped s WHERE f.emits IS NOT NULL),
        pg_snapshot_xmin(pg_current_snapshot())::text::bigint);

-- What was committed before then can be seen in the log by whoever asks in this transaction.
CREATE FUNCTION portolan.seen_us() RETURNS bigint LANGUAGE sql STABLE
    RETURN coalesce((SELECT s.at_us FROM portolan.fence f, portolan.shipped s WHERE f.emits IS NOT NULL),
        (extract(epoch FROM transaction_timestamp()) * 1000000)::bigint);

CREATE FUNCTION portolan.draw() RETURNS text LANGUAGE sql VOLATILE
    RETURN substr(replace(gen_random_uuid()::text, '-', ''), 1, 16);

INSERT INTO portolan.fence VALUES
    (1, 0, 0, 0, 0, '', 0, portolan.system(), portolan.timeline(), portolan.draw(), 0, NULL);

-- What a message begins with: the word, the lowest transaction that is still open, and the time. What was committed before either was looked at
-- comes before the message, because messages come in the order of commits.
CREATE FUNCTION portolan.emitted(word text) RETURNS text LANGUAGE sql VOLATILE
    RETURN word || ' ' || pg_snapshot_xmin(pg_current_snapshot()) || ' ' || portolan.now_us();

-- Moves the horizon and the slot on when no record does. Returns where that lies in the write-ahead log.
CREATE FUNCTION portolan.beat() RETURNS pg_lsn LANGUAGE sql VOLATILE SECURITY DEFINER
    RETURN (SELECT pg_logical_emit_message(true, 'portolan', portolan.emitted(emits))
        FROM portolan.fence WHERE emits IS NOT NULL);

-- Functions without a search path of their own are called by those below alone, which have one and are the owner's.

-- The loop flag holds for one transaction, and only for the applier: anybody can set it.
CREATE FUNCTION portolan.applying() RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN current_setting('portolan.applying', true) = 'on'
        AND coalesce((SELECT pg_has_role(session_user, applier, 'MEMBER') FROM portolan.fence), false);
END $$;

CREATE FUNCTION portolan.refuse(why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'portolan:%', why USING ERRCODE = 'read_only_sql_transaction',
        HINT = 'Write through any portolan gateway: it knows where this shard''s primary is.';
END $$;

-- Who writes enters the fence and stays inside until the transaction ends: demotion waits for the lock.
CREATE FUNCTION portolan.enter(leased boolean) RETURNS portolan.fence LANGUAGE plpgsql AS $$
DECLARE
    here portolan.fence;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(8101820099073958254);
    IF current_setting('transaction_isolation') = 'read committed' THEN
        SELECT * INTO STRICT here FROM portolan.fence;
    ELSE
        -- An old snapshot would not see that the epoch or a hold has changed; the lock fails then.
        SELECT * INTO STRICT here FROM portolan.fence FOR KEY SHARE;
    END IF;
    IF here.cut = 1 OR here.timeline <> portolan.timeline() THEN
        PERFORM portolan.refuse('cut');
    ELSIF leased AND portolan.now_us() >= here.deadline_us THEN
        PERFORM portolan.refuse('expired');
    ELSIF NOT leased AND here.member = 0 THEN
        PERFORM portolan.refuse('member');
    END IF;
    RETURN here;
END $$;

-- A column's elements, for a rule that unites them.
CREATE FUNCTION portolan.elements(image jsonb, name text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF jsonb_typeof(image -> name) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'portolan: the column % must hold an array of JSON: its conflict rule unites its elements', name
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN image -> name;
END $$;

-- Which of two values of a column is greater, as all regions see it: numbers by their value, texts by their bytes, NULL below all.
CREATE FUNCTION portolan.above(one jsonb, other jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN one IS NULL OR jsonb_typeof(one) = 'null' THEN false
        WHEN other IS NULL OR jsonb_typeof(other) = 'null' THEN true
        WHEN jsonb_typeof(one) = 'number' AND jsonb_typeof(other) = 'number' THEN one::numeric > other::numeric
        ELSE (one #>> '{}') COLLATE "C" > (other #>> '{}') COLLATE "C" END;

-- The marks of a row after a write: see `host/changelog/src/model/marks.rs` and `history.rs`, whose words these are. `rules` are
-- those of the table, `old` the marks before, `was` and `image` the row before and after, `now` its version.
CREATE FUNCTION portolan.marks(rules jsonb, old jsonb, was jsonb, image jsonb, now portolan.row, home bigint)
    RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    stamp jsonb; star jsonb; life bigint; name text; own text;
    seen jsonb; at jsonb; counts jsonb := '{}'; sets jsonb := '{}'; tops jsonb := '{}'; bottoms jsonb := '{}';
    one jsonb; side text; elements jsonb;
BEGIN
    IF rules ->> 'rule' = 'home_wins' THEN
        RETURN CASE WHEN home IS NULL THEN old ELSE jsonb_build_object('home', jsonb_build_array(home, now.v)) END;
    ELSIF rules ->> 'rule' = 'first_wins' THEN
        stamp := jsonb_build_array(jsonb_build_array(now.v, now.origin));
        IF old IS NULL THEN
            one := CASE WHEN now.replaces_v IS NULL THEN '[]'
                ELSE jsonb_build_array(jsonb_build_array(now.replaces_v, now.replaces_origin)) END;
            RETURN jsonb_build_object('round', 0, 'path', one || stamp);
        ELSIF jsonb_array_length(old -> 'path') >= 32 THEN
            RETURN jsonb_build_object('round', (old ->> 'round')::bigint + 1, 'path', stamp);
        END IF;
        RETURN jsonb_build_object('round', old -> 'round', 'path', (old -> 'path') || stamp);
    END IF;
    seen := coalesce(old -> 'seen', CASE WHEN now.replaces_v IS NULL THEN '{}'
        ELSE jsonb_build_object(now.replaces_origin, now.replaces_v) END) || jsonb_build_object(now.origin, now.v);
    IF image IS NULL THEN
        RETURN jsonb_build_object('dead', now.v, 'seen', seen);
    END IF;
    IF was IS NULL THEN
        life := now.v;
        stamp := jsonb_build_array(life, now.v, now.origin);
        star := stamp;
        at := jsonb_build_object('*', star);
    ELSE
        star := coalesce(old #> '{at,*}', jsonb_build_array(0, now.replaces_v, now.replaces_origin));
        life := (star ->> 0)::bigint;
        stamp := jsonb_build_array(life, now.v, now.origin);
        at := coalesce(old -> 'at', '{}') || jsonb_build_object('*', star);
        -- Columns without a rule of their own.
        FOR name IN SELECT k FROM jsonb_object_keys(image) k
            WHERE NOT (rules -> 'own') ? k AND (image -> k)::text IS DISTINCT FROM (was -> k)::text
        LOOP
            at := at || jsonb_build_object(CASE WHEN rules ->> 'rest' = 'each' THEN name ELSE '*' END, stamp);
        END LOOP;
    END IF;
    own := life || '/' || now.origin;
    FOR name IN SELECT k FROM jsonb_array_elements_text(rules -> 'counter') k LOOP
        IF was IS NULL THEN
            one := jsonb_build_object(own, jsonb_build_array(now.v, image -> name));
        ELSE
            one := coalesce(old #> ARRAY['counts', name], jsonb_build_object(life || '/', jsonb_build_array(star -> 1, was -> name)));
            IF (image -> name)::text <> (was -> name)::text THEN
                one := one || jsonb_build_object(own, jsonb_build_array(now.v,
                    coalesce((one -> own ->> 1)::bigint, 0) + (image ->> name)::bigint - (was ->> name)::bigint));
            END IF;
        END IF;
        counts := counts || jsonb_build_object(name, one);
    END LOOP;
    FOR name IN SELECT k FROM jsonb_array_elements_text(rules -> 'set_union') k LOOP
        elements := portolan.elements(image, name);
        IF was IS NULL THEN
            one := (SELECT coalesce(jsonb_object_agg(e::text, stamp || '1'), '{}') FROM jsonb_array_elements(elements) e);
        ELSE
            one := coalesce(old #> ARRAY['sets', name],
                (SELECT coalesce(jsonb_object_agg(e::text, star || '1'), '{}') FROM jsonb_array_elements(was -> name) e));
            one := one
                || (SELECT coalesce(jsonb_object_agg(e::text, stamp || '1'), '{}') FROM jsonb_array_elements(elements) e
                    WHERE e::text NOT IN (SELECT o::text FROM jsonb_array_elements(was -> name) o))
                || (SELECT coalesce(jsonb_object_agg(o::text, stamp || '0'), '{}') FROM jsonb_array_elements(was -> name) o
                    WHERE o::text NOT IN (SELECT e::text FROM jsonb_array_elements(elements) e));
        END IF;
        sets := sets || jsonb_build_object(name, one);
    END LOOP;
    FOR side, name IN SELECT s, k FROM unnest(ARRAY['max', 'min']) s, jsonb_array_elements_text(rules -> s) k LOOP
        one := '{}';
        IF was IS NOT NULL THEN
            one := coalesce(old #> ARRAY[side, name], CASE WHEN jsonb_typeof(was -> name) = 'null' THEN '{}'
                ELSE jsonb_build_object(life::text, was -> name) END);
            IF jsonb_typeof(was -> name) <> 'null' AND (jsonb_typeof(image -> name) = 'null'
                OR side = 'max' AND portolan.above(was -> name, image -> name)
                OR side = 'min' AND portolan.above(image -> name, was -> name))
            THEN
                RAISE EXCEPTION 'portolan: the column % only %: so says its conflict rule', name,
                    CASE side WHEN 'max' THEN 'rises' ELSE 'falls' END USING ERRCODE = 'check_violation';
            END IF;
        END IF;
        IF jsonb_typeof(image -> name) <> 'null' AND (image -> name)::text IS DISTINCT FROM (was -> name)::text THEN
            one := one || jsonb_build_object(life::text, image -> name);
        END IF;
        IF side = 'max' THEN
            tops := tops || jsonb_build_object(name, one);
        ELSE
            bottoms := bottoms || jsonb_build_object(name, one);
        END IF;
    END LOOP;
    RETURN jsonb_build_object('dead', old -> 'dead', 'seen', seen, 'at', at, 'counts', counts, 'sets', sets,
        'max', tops, 'min', bottoms);
END $$;

-- `was`: the row before, if it was there. One that has no version yet had the lowest. `rules`: NULL if the higher version wins.
CREATE FUNCTION portolan.record(own_table text, own_leased boolean, own_tenant text, own_key text, image jsonb, was jsonb,
    rules jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    number bigint := pg_current_xact_id()::text::bigint;
    here portolan.fence := portolan.enter(own_leased);
    place portolan.tenant;
    version portolan.row;
    now_us bigint := portolan.now_us();
    home bigint;
    sequence bigint;
BEGIN
    IF own_tenant IS NOT NULL THEN
        -- A move that holds the tenant waits for whoever is inside.
        PERFORM pg_advisory_xact_lock_shared(1886351988, hashtext(own_tenant));
        SELECT * INTO place FROM portolan.tenant WHERE tenant = own_tenant;
        IF place.away = 1 THEN
            PERFORM portolan.refuse('away');
        ELSIF place.hold IS NOT NULL 
            AND (place.hold_until_us IS NULL OR portolan.now_us() < place.hold_until_us) THEN
            PERFORM portolan.refuse('held');
        END IF;
    END IF;
    INSERT INTO portolan.inside VALUES (number, here.epoch, own_leased) ON CONFLICT DO NOTHING;
    INSERT INTO portolan.row AS old
        (table_name, key, tenant, placement, epoch, v, origin, deleted, round, replaces_epoch, replaces_v, replaces_origin)
    VALUES (own_table, own_key, own_tenant, coalesce(place.placement, 0),
        CASE WHEN own_leased THEN here.epoch ELSE 0 END, now_us, here.origin, (image IS NULL)::int,
        CASE WHEN image IS NULL THEN here.round ELSE 0 END,
        CASE WHEN was IS NOT NULL THEN 0 END, CASE WHEN was IS NOT NULL THEN 0 END,
        CASE WHEN was IS NOT NULL THEN here.origin END)
    ON CONFLICT (table_name, key) DO UPDATE SET
        tenant = excluded.tenant, placement = excluded.placement, epoch = excluded.epoch,
        v = greatest(excluded.v, old.v + 1, (old.marks ->> 'top')::bigint + 1), origin = excluded.origin, deleted = excluded.deleted,
        round = excluded.round, replaces_epoch = old.epoch, replaces_v = old.v, replaces_origin = old.origin
    RETURNING * INTO version;
    IF rules IS NOT NULL THEN
        home := CASE WHEN here.epoch > 0 AND now_us < here.deadline_us THEN here.epoch END;
        version.marks := portolan.marks(rules, version.marks, was, image, version, home);
        UPDATE portolan.row SET marks = version.marks WHERE table_name = own_table AND key = own_key;
    END IF;
    IF here.emits IS NOT NULL THEN
        sequence := nextval('portolan.log_seq');
        PERFORM set_config('portolan.written', here.epoch || '.' || number || '.' || sequence, true);
        PERFORM pg_logical_emit_message(true, 'portolan', portolan.emitted(here.emits) || ' ' || number || ' '
            || jsonb_build_array(here.epoch, number, sequence, now_us, own_tenant, version.placement, here.schema,
                CASE WHEN image IS NULL THEN 'delete' ELSE 'put' END, own_table, own_key, image,
                version.epoch, version.v, version.origin,
                version.replaces_epoch, version.replaces_v, version.replaces_origin, version.marks, here.piece));
        RETURN;
    END IF;
    INSERT INTO portolan.log
        (epoch, tx, at_us, tenant, placement, schema, kind, table_name, key, row,
         version_epoch, v, origin, replaces_epoch, replaces_v, replaces_origin, marks, piece)
    VALUES (here.epoch, number, now_us, own_tenant, version.placement, here.schema,
        CASE WHEN image IS NULL THEN 'delete' ELSE 'put' END, own_table, own_key, image,
        version.epoch, version.v, version.origin,
        version.replaces_epoch, version.replaces_v, version.replaces_origin, version.marks, here.piece);
END $$;

-- Before each statement: TG_ARGV[0] is 'leased' or 'members'.
CREATE FUNCTION portolan.enter_statement() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Anybody can set this, and refuses itself alone then.
    IF current_setting('portolan.migrating', true) = 'on' THEN
        RAISE EXCEPTION 'portolan: a migration that is no backfill changes rows of %', TG_TABLE_NAME;
    END IF;
    IF NOT portolan.applying() THEN
        PERFORM portolan.enter(TG_ARGV[0] = 'leased');
    END IF;
    RETURN NULL;
END $$;

-- At commit, once for each transaction: it began in time, and must end in time. A writer that makes its constraints immediate is
-- looked at when it enters or does so, and not at commit.
CREATE FUNCTION portolan.leave() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here portolan.fence := portolan.enter(NEW.leased);
BEGIN
    IF here.epoch <> NEW.epoch THEN
        PERFORM portolan.refuse('moved');
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON portolan.inside DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION portolan.leave();

-- After each row. TG_ARGV: the table, its tenant column or '', 'leased' or 'members', its generated columns and its key columns as
-- arrays, its conflict rule or ''. The settings make one text of each value, whatever the writer's session says.
CREATE FUNCTION portolan.capture() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET timezone = 'UTC' SET datestyle = 'ISO, YMD' SET intervalstyle = 'iso_8601'
    SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C'
AS $$
DECLARE
    leased boolean := TG_ARGV[2] = 'leased';
    generated text[] := TG_ARGV[3];
    keys text[] := TG_ARGV[4];
    rules jsonb := nullif(TG_ARGV[5], '');
    old_image jsonb; old_key text; old_tenant text;
    new_image jsonb; new_key text; new_tenant text;
BEGIN
    IF portolan.applying() THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        old_image := to_jsonb(OLD) - generated;
        old_tenant := old_image ->> TG_ARGV[1];
        old_key := (SELECT jsonb_agg(old_image -> name ORDER BY at) FROM unnest(keys) WITH ORDINALITY AS k (name, at));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_image := to_jsonb(NEW) - generated;
        new_tenant := new_image ->> TG_ARGV[1];
        new_key := (SELECT jsonb_agg(new_image -> name ORDER BY at) FROM unnest(keys) WITH ORDINALITY AS k (name, at));
    END IF;
    IF TG_OP = 'UPDATE' AND old_image::text = new_image::text THEN
        RETURN NULL;
    END IF;
    -- A row under another key or of another tenant is another row.
    IF old_key IS NOT NULL AND (old_key, old_tenant) IS DISTINCT FROM (new_key, new_tenant) THEN
        PERFORM portolan.record(TG_ARGV[0], leased, old_tenant, old_key, NULL, old_image, rules);
    END IF;
    IF new_key IS NOT NULL THEN
        PERFORM portolan.record(TG_ARGV[0], leased, new_tenant, new_key, new_image,
            CASE WHEN (old_key, old_tenant) IS NOT DISTINCT FROM (new_key, new_tenant) THEN old_image END, rules);
    END IF;
    RETURN NULL;
END $$;

-- TRUNCATE deletes each row first, of all tenants, so that each is in the log.
CREATE FUNCTION portolan.truncating() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before text := coalesce(current_setting('portolan.maintenance', true), '');
BEGIN
    PERFORM set_config('portolan.maintenance', 'on', true);
    EXECUTE format('DELETE FROM %s', TG_RELID::regclass);
    PERFORM set_config('portolan.maintenance', before, true);
    RETURN NULL;
END $$;

-- Where the running transaction's last record lies. Of what is emitted, the trigger has said so, and its words go with a savepoint.
CREATE FUNCTION portolan.written() RETURNS text LANGUAGE sql VOLATILE SECURITY DEFINER
    RETURN coalesce(nullif(current_setting('portolan.written', true), ''), (SELECT log.epoch || '.' || log.tx || '.' || log.seq FROM portolan.log
        WHERE log.epoch = (SELECT fence.epoch FROM portolan.fence)
          AND log.tx = pg_current_xact_id_if_assigned()::text::bigint
        ORDER BY log.epoch DESC, log.tx DESC, log.seq DESC LIMIT 1));

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA portolan FROM PUBLIC;
