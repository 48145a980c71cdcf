//! A shard in a database of PostgreSQL: three roles, and the triggers and row security of declared tables.
//!
//! The *owner* owns tables and functions, and moves the fence. The *writer* is what applications and gateways write as: it
//! sees the rows of the tenant that its transaction names, and none of portolan's own tables. The *applier* puts what other regions
//! wrote, of all tenants; no other's loop flag is believed. The operator makes the roles: the owner neither a superuser nor
//! exempt from row security, and a member of the writer's role, so that it may end its connections.

use std::sync::Arc;

use portolan_core::tenant_table::TenantTable;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgPoolOptions;

use crate::content;
use crate::database::{Dialect, Pool, Session, Value};
use crate::defaults::{
    ANSWER_TIMEOUT, CONNECTIONS_MAX, KEEPER_LOCK, KEEPER_STATEMENT, LOCK_TIMEOUT, POSTGRES_VERSION_MIN,
    SILENCE, STATEMENTS_MAX,
};
use crate::error::Error;
use crate::logical::Capture;
use crate::login::{self, Access, Login};
use crate::marks;
use crate::sqlite::migrator;
use crate::table::{Catalogue, Declared, array};

const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "create shard", include_str!("../../../migrations/shard/postgres/0001_create_shard.sql")),
    (2, "create content", include_str!("../../../migrations/shard/postgres/0002_create_content.sql")),
    (3, "follow content", include_str!("../../../migrations/shard/postgres/0003_follow_content.sql")),
    (4, "add resolutions", include_str!("../../../migrations/shard/postgres/0004_add_resolutions.sql")),
    (
        5,
        "share between tenants",
        include_str!("../../../migrations/shard/postgres/0005_share_between_tenants.sql"),
    ),
];

/// Where a shard's database is: for each role a URL of the form `postgres://ROLE:PASSWORD@HOST:PORT/DATABASE`, with what libpq
/// understands behind a `?`, such as `sslmode` and `sslrootcert`, or `host` for a folder with the server's socket.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresConfig {
    /// How server and gateway prove who they are.
    pub access: Access,
    /// Puts what other regions wrote.
    pub applier: String,
    /// How changes come into the log.
    pub capture: Capture,
    /// Owns tables, moves the fence.
    pub owner: String,
    /// Writes for applications.
    pub writer: String,
}

impl std::fmt::Debug for PostgresConfig {
    /// Passwords are nobody's business.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresConfig").finish_non_exhaustive()
    }
}

/// The roles' connections.
#[derive(Clone, Debug)]
pub(crate) struct Roles {
    pub(crate) applier: Pool,
    pub(crate) applier_name: String,
    pub(crate) capture: Capture,
    pub(crate) keeper: Pool,
    pub(crate) owner: Pool,
    pub(crate) owner_name: String,
    pub(crate) writer: Pool,
    pub(crate) writer_name: String,
}

/// Connects as each role, and brings portolan's tables up to date.
pub(crate) async fn open(config: &PostgresConfig) -> Result<Roles, Error> {
    let owner = connect(config, Use::Owner).await?;
    let owner_name = owner.name().to_owned();
    let pool = Pool::postgres(Arc::clone(&owner), ANSWER_TIMEOUT);
    check(&mut pool.acquire().await?, &owner_name).await?;
    let migrated = migrator(MIGRATIONS).run(owner.pool()).await;
    migrated.map_err(|error| Error::Away(format!("migrate: {error}")))?;
    let writer = connect(config, Use::Writer).await?;
    let applier = connect(config, Use::Applier).await?;
    let (writer_name, applier_name) = (writer.name().to_owned(), applier.name().to_owned());
    let different = writer_name != applier_name && writer_name != owner_name && applier_name != owner_name;
    if !different {
        return Err(Error::Damaged("owner, writer and applier must be three roles".to_owned()));
    }
    check_roles(&mut pool.acquire().await?, &writer_name, &applier_name).await?;
    let roles = Roles {
        applier: Pool::postgres(applier, ANSWER_TIMEOUT),
        applier_name,
        capture: config.capture,
        keeper: Pool::postgres(connect(config, Use::Keeper).await?, KEEPER_STATEMENT + SILENCE),
        owner: pool,
        owner_name,
        writer: Pool::postgres(writer, ANSWER_TIMEOUT),
        writer_name,
    };
    grant(&roles).await?;
    Ok(roles)
}

impl Roles {
    /// Looks whether passwords have changed.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        for login in
            [&self.keeper, &self.owner, &self.writer, &self.applier].into_iter().filter_map(Pool::login)
        {
            login.refresh().await?;
        }
        Ok(())
    }
}

/// What connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Applier,
    /// The lease's keeper speaks as the owner over a connection of its own, so that nobody's work stands in its way.
    Keeper,
    Owner,
    Writer,
}

/// One text of each value, as the triggers have it.
const CANONICAL: [(&str, &str); 6] = [
    ("timezone", "UTC"),
    ("datestyle", "ISO,YMD"),
    ("intervalstyle", "iso_8601"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
];

pub(crate) async fn connect(config: &PostgresConfig, of: Use) -> Result<Arc<Login>, Error> {
    let passwords = &config.access.passwords;
    let (url, file, role) = match of {
        Use::Applier => (&config.applier, &passwords.applier, "applier"),
        Use::Keeper | Use::Owner => (&config.owner, &passwords.owner, "owner"),
        Use::Writer => (&config.writer, &passwords.writer, "writer"),
    };
    let (connections, statement, lock, name) = match of {
        Use::Keeper => (1, KEEPER_STATEMENT, KEEPER_LOCK, "keeper"),
        _ => (CONNECTIONS_MAX, ANSWER_TIMEOUT, LOCK_TIMEOUT, role),
    };
    let milliseconds = |time: std::time::Duration| format!("{}ms", time.as_millis());
    let options = login::options(url, role, &config.access)?
        .application_name(&format!("portolan {name}"))
        .options([
            ("statement_timeout", milliseconds(statement)),
            ("lock_timeout", milliseconds(lock)),
            ("idle_in_transaction_session_timeout", milliseconds(ANSWER_TIMEOUT)),
            ("default_transaction_isolation", "read committed".to_owned()),
            // What is turned off for a statement seems expensive to the planner, and worth compiling: that takes longer than any of these.
            ("jit", "off".to_owned()),
        ])
        .statement_cache_capacity(STATEMENTS_MAX)
        .disable_statement_logging();
    // Who reads rows to compare them with another database's writes values as the triggers do.
    let options = if of == Use::Applier { options.options(CANONICAL) } else { options };
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .min_connections(0)
        .acquire_timeout(if of == Use::Keeper { KEEPER_STATEMENT } else { ANSWER_TIMEOUT });
    Login::open(options, file.as_deref(), role, pool).await
}

async fn check(session: &mut Session, owner: &str) -> Result<(), Error> {
    let row = session
        .one(
            "SELECT current_setting('server_version_num')::bigint, rolsuper OR rolbypassrls, pg_is_in_recovery(), \
             current_setting('max_prepared_transactions')::bigint FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await?;
    if row.number(0)? < POSTGRES_VERSION_MIN.unsigned_abs() {
        return Err(Error::Damaged("PostgreSQL is older than 15".to_owned()));
    }
    if row.number(1)? == 1 {
        return Err(Error::Damaged(format!(
            "the owner `{owner}` is a superuser or exempt from row security: give the tables to a role that is neither"
        )));
    }
    if row.number(3)? > 0 {
        return Err(Error::Damaged(
            "max_prepared_transactions is not 0: what is prepared in time could be committed after the lease"
                .to_owned(),
        ));
    }
    if row.number(2)? == 1 {
        return Err(Error::Away("this server is a standby".to_owned()));
    }
    Ok(())
}

/// What the roles may do beside what they are for would undo it.
async fn check_roles(session: &mut Session, writer: &str, applier: &str) -> Result<(), Error> {
    let sql = "SELECT pg_has_role(current_user, w.oid, 'MEMBER'), \
        pg_has_role(w.oid, a.oid, 'MEMBER') OR pg_has_role(w.oid, current_user, 'MEMBER') \
        OR pg_has_role(current_user, a.oid, 'MEMBER'), \
        w.rolsuper OR w.rolbypassrls OR a.rolsuper FROM pg_roles w, pg_roles a WHERE w.rolname = $1 AND a.rolname = $2";
    let rows = session.fetch(sql, &[writer.into(), applier.into()]).await?;
    let row = rows.first().ok_or_else(|| Error::Damaged("its roles are gone".to_owned()))?;
    let wrong = if row.number(1)? == 1 {
        format!(
            "the writer `{writer}` or the owner is a member of a role above it: it could write past the fence, or see all tenants"
        )
    } else if row.number(0)? == 0 {
        format!("GRANT \"{writer}\" to the owner: a demotion ends the writer's connections")
    } else if row.number(2)? == 1 {
        format!("`{writer}` or `{applier}` is a superuser or exempt from row security")
    } else {
        return Ok(());
    };
    Err(Error::Damaged(wrong))
}

async fn grant(roles: &Roles) -> Result<(), Error> {
    let (writer, applier) = (quote(&roles.writer_name), quote(&roles.applier_name));
    let mut session = roles.owner.begin().await?;
    one_at_a_time(&mut session).await?;
    for statement in [
        format!("GRANT USAGE ON SCHEMA portolan TO {writer}, {applier}"),
        format!("GRANT EXECUTE ON FUNCTION portolan.now_us(), portolan.written() TO {writer}, {applier}"),
        format!(
            "GRANT EXECUTE ON FUNCTION portolan.timeline(), portolan.system(), portolan.horizon(), portolan.seen_us(), \
             portolan.beat() TO {applier}"
        ),
        format!(
            "GRANT SELECT ON portolan.fence, portolan.log, portolan.trimmed, portolan.schema, portolan.declared TO {applier}"
        ),
        // The record that a tenant is forgotten, and all that is shipped.
        format!("GRANT INSERT ON portolan.log TO {applier}"),
        format!("GRANT SELECT, UPDATE ON portolan.shipped TO {applier}"),
        format!("GRANT USAGE ON SEQUENCE portolan.log_seq TO {applier}"),
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON portolan.row, portolan.tenant, portolan.progress, portolan.staged, \
             portolan.conflict, portolan.parked, portolan.copying, portolan.gone, portolan.term, portolan.tail, portolan.stale, \
             portolan.follower \
             TO {applier}"
        ),
        format!(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {applier}",
            content::TABLES.map(|name| format!("portolan.{name}")).join(", ")
        ),
    ] {
        session.execute(&statement, &[]).await?;
    }
    session.execute("UPDATE portolan.fence SET applier = $1", &[roles.applier_name.as_str().into()]).await?;
    // A promotion, a restored backup, a copy of the database: its history may have been cut.
    session
        .execute(
            "UPDATE portolan.fence SET cut = 1 WHERE timeline <> portolan.timeline() OR system <> portolan.system()",
            &[],
        )
        .await?;
    session.commit().await
}

/// Gateways that start together would fail on each other's changes of the catalogue.
pub(crate) async fn one_at_a_time(session: &mut Session) -> Result<(), Error> {
    session.execute("SELECT pg_advisory_xact_lock(1886351988, 0)", &[]).await.map(drop)
}

/// Finds a declared table.
pub(crate) async fn find(session: &mut Session, table: &TenantTable) -> Result<Declared, Error> {
    let rows = session
        .query(
            "SELECT a.attname::text, a.attgenerated <> '', a.attnotnull, coalesce(a.attnum = ANY (i.indkey), false), \
             format_type(a.atttypid, NULL) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
             WHERE n.nspname = 'public' AND c.relname = $1 AND c.relkind = 'r' ORDER BY a.attnum",
            &[table.name.as_str().into()],
        )
        .await?;
    let mut found = Catalogue::default();
    for row in &rows {
        let name = row.text(0)?;
        if row.number(3)? == 1 {
            found.key.push(name.clone());
        }
        if row.number(2)? == 1 {
            found.not_null.insert(name.clone());
        }
        let kind = row.text(4)?;
        if kind == "jsonb" {
            found.arrays.insert(name.clone());
        }
        found.types.insert(name.clone(), kind);
        if row.number(1)? == 1 { found.generated.push(name) } else { found.columns.push(name) }
    }
    Declared::check(table, found)
}

/// The statements that make a table's triggers, row security and grants.
pub(crate) fn capture(table: &Declared, roles: &Roles) -> Vec<String> {
    let name = table.name(Dialect::Postgres);
    let (writer, applier, owner) =
        (quote(&roles.writer_name), quote(&roles.applier_name), quote(&roles.owner_name));
    let writers = if table.leased() { "leased" } else { "members" };
    let tenant = table.table.tenant.as_ref().map_or("", |column| column.as_str());
    let mut statements = release(table.table.name.as_str());
    statements.extend([
        format!(
            "CREATE TRIGGER portolan_a_enter BEFORE INSERT OR UPDATE OR DELETE ON {name} \
             FOR EACH STATEMENT EXECUTE FUNCTION portolan.enter_statement('{writers}')"
        ),
        format!(
            "CREATE TRIGGER portolan_capture AFTER INSERT OR UPDATE OR DELETE ON {name} FOR EACH ROW \
             EXECUTE FUNCTION portolan.capture('{}', '{tenant}', '{writers}', '{}', '{}', '{}')",
            table.table.name,
            array(&table.generated),
            array(&table.table.key),
            marks::told(&table.table.conflict)
        ),
        format!(
            "CREATE TRIGGER portolan_truncate BEFORE TRUNCATE ON {name} \
             FOR EACH STATEMENT EXECUTE FUNCTION portolan.truncating()"
        ),
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {applier}"),
    ]);
    if tenant.is_empty() {
        statements.push(format!("GRANT SELECT ON {name} TO {writer}"));
        return statements;
    }
    let own = format!("\"{tenant}\"::text = current_setting('portolan.tenant', true)");
    statements.extend([
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {writer}"),
        format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY"),
        format!("ALTER TABLE {name} FORCE ROW LEVEL SECURITY"),
        format!("CREATE POLICY portolan_tenant ON {name} USING ({own}) WITH CHECK ({own})"),
        format!("CREATE POLICY portolan_applier ON {name} TO {applier} USING (true) WITH CHECK (true)"),
        // For what empties whole tables, or changes rows of all tenants: only the owner's own flag counts.
        format!(
            "CREATE POLICY portolan_maintenance ON {name} TO {owner} \
             USING (current_setting('portolan.maintenance', true) = 'on')"
        ),
    ]);
    statements
}

/// What writers need beside the table: the sequences of its columns.
pub(crate) async fn grant_sequences(
    session: &mut Session,
    table: &Declared,
    roles: &Roles,
) -> Result<(), Error> {
    let sequences = session
        .query(
            "SELECT s.oid::regclass::text FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
             WHERE d.refobjid = $1::regclass AND d.deptype IN ('a', 'i')",
            &[Value::Text(table.name(Dialect::Postgres))],
        )
        .await?;
    for sequence in sequences {
        let statement =
            format!("GRANT USAGE ON SEQUENCE {} TO {}", sequence.text(0)?, quote(&roles.writer_name));
        session.execute(&statement, &[]).await?;
    }
    Ok(())
}

/// The statements that take a table's triggers away. Row security stays: a table that is no longer declared is not open
/// to all tenants.
pub(crate) fn release(table: &str) -> Vec<String> {
    let triggers = ["portolan_a_enter", "portolan_capture", "portolan_truncate"];
    let policies = ["portolan_tenant", "portolan_applier", "portolan_maintenance"];
    let triggers =
        triggers.iter().map(|trigger| format!("DROP TRIGGER IF EXISTS {trigger} ON public.\"{table}\""));
    let policies =
        policies.iter().map(|policy| format!("DROP POLICY IF EXISTS {policy} ON public.\"{table}\""));
    triggers.chain(policies).collect()
}

/// How many of a table's triggers are there.
pub(crate) const TRIGGERS: (&str, u64) = (
    "SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid \
     WHERE c.relname = $1 AND c.relnamespace = 'public'::regnamespace AND t.tgenabled = 'O' \
     AND t.tgname IN ('portolan_a_enter', 'portolan_capture', 'portolan_truncate')",
    3,
);

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
