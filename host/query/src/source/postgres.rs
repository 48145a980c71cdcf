//! Reading PostgreSQL: binary values, as its protocol has them.

use datafusion::arrow::datatypes::SchemaRef;
use futures_util::TryStreamExt as _;
use portolan_core::tenant_table::TenantTable;
use portolan_foundation::clock;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Postgres, Row as _, ValueRef as _};

use super::batch::{Cell, Odd, Rows, scaled};
use super::{Batches, Failed, Held};
use crate::catalogue::{Column, Found};
use crate::defaults::{
    CONNECT_TIMEOUT, CONNECTION_CHECK_MS, DECIMAL_DIGITS, DECIMAL_SCALE, STATEMENTS_PER_SHARD_MAX,
};
use crate::error::Error;
use crate::fragment::Value;
use crate::fragment::sql::{Scope, Statement};
use crate::kind::Kind;
use crate::world::World;

/// 2000-01-01 in days since 1970: where PostgreSQL begins to count.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_US: i64 = 10_957 * 86_400_000_000;

pub(super) async fn connect(options: PgConnectOptions) -> Result<PgPool, String> {
    let options = options
        .application_name("portolan query")
        .options([
            ("default_transaction_read_only", "on"),
            ("client_connection_check_interval", &format!("{CONNECTION_CHECK_MS}ms")),
            ("timezone", "UTC"),
            ("standard_conforming_strings", "on"),
        ])
        .disable_statement_logging();
    let pool = PgPoolOptions::new()
        .max_connections(u32::try_from(STATEMENTS_PER_SHARD_MAX).unwrap_or(u32::MAX))
        .min_connections(0)
        .acquire_timeout(CONNECT_TIMEOUT)
        .connect_with(options);
    let pool = tokio::time::timeout(CONNECT_TIMEOUT, pool).await;
    pool.map_err(|_| "it does not answer".to_owned())?.map_err(|error| super::brief(&error))
}

const COLUMNS: &str = "SELECT c.relname::text, a.attname::text, \
    CASE WHEN t.typtype = 'd' THEN b.typname ELSE t.typname END::text, \
    CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END, NOT a.attnotnull, \
    coalesce(l.collisdeterministic, true), coalesce(l.oid::text, '') \
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
    JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype \
    LEFT JOIN pg_collation l ON l.oid = a.attcollation \
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND c.relname = ANY ($1) ORDER BY c.relname, a.attnum";

pub(super) async fn columns(pool: &PgPool, tables: &[TenantTable]) -> Result<Found, sqlx::Error> {
    let names: Vec<String> = tables.iter().map(|table| table.name.as_str().to_owned()).collect();
    let rows = sqlx::query(COLUMNS).bind(names).fetch_all(pool).await?;
    let mut found = Found::new();
    for row in rows {
        let kind = kind(&row.try_get::<String, _>(2)?, row.try_get(3)?, row.try_get(5)?);
        let collation = if kind == Kind::Text { row.try_get(6)? } else { String::new() };
        let column = Column { name: row.try_get(1)?, kind, collation, nullable: row.try_get(4)? };
        found.entry(row.try_get(0)?).or_default().push(column);
    }
    Ok(found)
}

fn kind(name: &str, modifier: i32, deterministic: bool) -> Kind {
    match name {
        "bool" => Kind::Boolean,
        "bytea" => Kind::Bytes,
        "date" => Kind::Date,
        "float4" => Kind::Float32,
        "float8" => Kind::Float64,
        "int2" => Kind::Int16,
        "int4" => Kind::Int32,
        "int8" => Kind::Int64,
        "numeric" if modifier < 4 => Kind::Decimal(DECIMAL_DIGITS, DECIMAL_SCALE),
        "numeric" => {
            // Digits in the upper half, the scale in the lower eleven bits, with a sign.
            let (digits, scale) = ((modifier - 4) >> 16, (((modifier - 4) & 0x7ff) ^ 0x400) - 0x400);
            match (u8::try_from(digits), i8::try_from(scale)) {
                (Ok(digits), Ok(scale))
                    if digits <= DECIMAL_DIGITS && scale >= 0 && i32::from(scale) <= i32::from(digits) =>
                {
                    Kind::Decimal(digits, scale)
                }
                _ => Kind::Opaque,
            }
        }
        "text" | "varchar" if deterministic => Kind::Text,
        "timestamp" => Kind::Local,
        "timestamptz" => Kind::Moment,
        "uuid" => Kind::Uuid,
        _ => Kind::Opaque,
    }
}

fn query<'q>(text: String, values: &[Value]) -> Query<'q, Postgres, PgArguments> {
    let mut query = sqlx::query::<Postgres>(AssertSqlSafe(text)).persistent(false);
    for value in values {
        query = match value {
            Value::Boolean(truth) => query.bind(*truth),
            Value::Integer(number) => query.bind(*number),
            Value::Text(_, text) => query.bind(text.clone()),
        };
    }
    query
}

/// A transaction that reads one state, as the one whose rows may be seen.
async fn begin(pool: &PgPool, world: &World) -> Result<Held<Postgres>, sqlx::Error> {
    let mut held = Held::new(pool.acquire().await?);
    let left = world.deadline.since(clock::now()).as_millis().clamp(1, 86_400_000);
    let begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {left}");
    sqlx::raw_sql(AssertSqlSafe(begin)).execute(&mut *held.connection).await?;
    if let Scope::Tenant(tenant) = &world.scope {
        let scope = sqlx::query("SELECT set_config('portolan.tenant', $1, true)").bind(tenant.clone());
        scope.execute(&mut *held.connection).await?;
    }
    Ok(held)
}

async fn end(mut held: Held<Postgres>) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("ROLLBACK").execute(&mut *held.connection).await?;
    held.clean = true;
    Ok(())
}

pub(super) async fn read(
    pool: &PgPool,
    statement: &Statement,
    schema: SchemaRef,
    world: &World,
    batches: &Batches,
) -> Result<(), Failed> {
    let timed = |error: sqlx::Error| failed(error, world);
    let mut held = begin(pool, world).await.map_err(timed)?;
    let mut rows = Rows::new(&statement.kinds, schema, world, batches)?;
    let query = query(statement.text.clone(), &statement.values);
    let mut answer = query.fetch(&mut *held.connection);
    while let Some(row) = answer.try_next().await.map_err(timed)? {
        for (at, kind) in statement.kinds.iter().enumerate() {
            take(&row, at, *kind, &mut rows).map_err(|Odd(why)| Failed::Shard(why))?;
        }
        if !rows.end_row().await? {
            return Ok(());
        }
    }
    drop(answer);
    rows.flush().await?;
    end(held).await.map_err(timed)
}

/// A statement that the database ends ran for as long as the query may.
fn failed(error: sqlx::Error, world: &World) -> Failed {
    match error.as_database_error() {
        Some(database) if database.code().as_deref() == Some("57014") => {
            Failed::Own(Error::Time(world.limits.time_ms))
        }
        _ => error.into(),
    }
}

fn take(row: &PgRow, at: usize, kind: Kind, rows: &mut Rows<'_>) -> Result<(), Odd> {
    let odd = |_| Odd(format!("no column {at} in the answer"));
    let raw = row.try_get_raw(at).map_err(odd)?;
    if raw.is_null() {
        return rows.put(at, &Cell::Null);
    }
    let bytes = raw.as_bytes().map_err(|error| Odd(error.to_string()))?;
    let mut own = String::new();
    let cell = cell(kind, bytes, &mut own).ok_or_else(|| {
        Odd(format!("column {} of the answer holds a value that cannot be kept as {kind:?}: NaN, infinity, or more digits", at + 1))
    })?;
    rows.put(at, &cell)
}

/// A value as the protocol has it. Times without an end, and numbers that are none, have no place in Arrow.
fn cell<'a>(kind: Kind, bytes: &'a [u8], own: &'a mut String) -> Option<Cell<'a>> {
    Some(match kind {
        Kind::Boolean => Cell::Boolean(*bytes.first()? != 0),
        Kind::Bytes => Cell::Bytes(bytes),
        Kind::Date => {
            let days = i32::from_be_bytes(bytes.try_into().ok()?);
            if matches!(days, i32::MAX | i32::MIN) {
                return None;
            }
            Cell::Days(days.checked_add(EPOCH_DAYS)?)
        }
        Kind::Decimal(_, scale) => Cell::Decimal(numeric(bytes, scale)?),
        Kind::Float32 => Cell::Float32(f32::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Float64 => Cell::Float64(f64::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Int16 => Cell::Integer(i16::from_be_bytes(bytes.try_into().ok()?).into()),
        Kind::Int32 => Cell::Integer(i32::from_be_bytes(bytes.try_into().ok()?).into()),
        Kind::Int64 => Cell::Integer(i64::from_be_bytes(bytes.try_into().ok()?)),
        Kind::Local | Kind::Moment => {
            let us = i64::from_be_bytes(bytes.try_into().ok()?);
            if matches!(us, i64::MAX | i64::MIN) {
                return None;
            }
            Cell::Moment(us.checked_add(EPOCH_US)?)
        }
        Kind::Opaque | Kind::Text => Cell::Text(std::str::from_utf8(bytes).ok()?),
        Kind::Uuid => {
            let number = u128::from_be_bytes(bytes.try_into().ok()?);
            let (a, b, c, d, e) = (
                number >> 96,
                number >> 80 & 0xffff,
                number >> 64 & 0xffff,
                number >> 48 & 0xffff,
                number & 0xffff_ffff_ffff,
            );
            *own = format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}");
            Cell::Text(own)
        }
    })
}

/// A number of ten-thousands, as many units as a scale says: how many digits, the first one's weight, the sign, the scale that it
/// was written with, digits.
fn numeric(bytes: &[u8], scale: i8) -> Option<i128> {
    let mut words =
        bytes.chunks_exact(2).map(|word| word.try_into().map(i16::from_be_bytes).unwrap_or_default());
    let (count, weight, sign, _) =
        (words.next()?, words.next()?, words.next()?.cast_unsigned(), words.next()?);
    if sign & 0x8000 != 0 {
        return None;
    }
    let mut digits: i128 = 0;
    for word in words {
        digits = digits.checked_mul(10_000)?.checked_add(word.into())?;
    }
    let exponent = 4 * (i32::from(weight) - i32::from(count) + 1);
    let number = scaled(digits, exponent, scale)?;
    Some(if sign == 0x4000 { -number } else { number })
}

pub(super) async fn foresee(pool: &PgPool, statement: &Statement, world: &World) -> Result<u64, Failed> {
    let timed = |error: sqlx::Error| failed(error, world);
    let mut held = begin(pool, world).await.map_err(timed)?;
    let explain = query(format!("EXPLAIN (FORMAT JSON) {}", statement.text), &statement.values);
    let row = explain.fetch_one(&mut *held.connection).await.map_err(timed)?;
    let raw = row.try_get_raw(0)?;
    let plan: Option<serde_json::Value> =
        raw.as_bytes().ok().and_then(|bytes| serde_json::from_slice(bytes).ok());
    end(held).await.map_err(timed)?;
    let rows = plan.as_ref().and_then(|plan| plan.pointer("/0/Plan/Plan Rows"));
    Ok(rows.and_then(serde_json::Value::as_u64).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[i16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn numbers_keep_every_digit_or_are_refused() {
        for (bytes, scale, wanted) in [
            (vec![0, 0, 0, 0], 2, Some(0)),
            (vec![1, 0, 0, 2, 5], 2, Some(500)),
            (vec![2, 0, 0x4000, 2, 12, 5000], 2, Some(-1_250)),
            (vec![2, 0, 0, 3, 12, 5050], 2, None),
            (vec![1, 1, 0, 0, 7], 0, Some(70_000)),
            (vec![1, -1, 0, 4, 1], 4, Some(1)),
            (vec![0, 0, -16_384, 0], 2, None),
            (vec![1, 30, 0, 0, 1], 0, None),
        ] {
            assert_eq!(numeric(&words(&bytes), scale), wanted, "{bytes:?}");
        }
    }

    #[test]
    fn declared_digits_are_read_from_the_modifier() {
        assert_eq!(kind("numeric", ((12 << 16) | 2) + 4, true), Kind::Decimal(12, 2));
        assert_eq!(kind("numeric", -1, true), Kind::Decimal(38, 10));
        assert_eq!(kind("numeric", ((50 << 16) | 2) + 4, true), Kind::Opaque);
        assert_eq!(kind("text", -1, false), Kind::Opaque);
    }
}
