//! What a statement of a migration may be, before any database sees it.

use super::folder::Kind;
use super::script::Statement;

/// Why a statement cannot stand in a migration of this kind, if it cannot.
pub(crate) fn check(statement: &Statement, postgres: bool, kind: Kind, transaction: bool) -> Option<String> {
    let begins = |all: &[&str]| all.iter().any(|keywords| statement.begins(keywords));
    if statement.text.starts_with('\\') {
        return Some("this is a command of psql, not SQL".to_owned());
    }
    if statement.words.iter().any(|word| word.name().starts_with("portolan")) {
        return Some("portolan's own tables are not part of the tenants' schema".to_owned());
    }
    if begins(TRANSACTIONS) {
        return Some("portolan begins and ends the transactions: leave this out".to_owned());
    }
    if !postgres && begins(SETTINGS) {
        return Some("this holds for a connection or a file, not for the schema: leave it out".to_owned());
    }
    if matches!(kind, Kind::Backfill { .. }) {
        return backfill(statement, transaction);
    }
    if transaction {
        let alone = statement.concurrent_index().is_some() || begins(ALONE);
        return (postgres && alone).then(|| {
            "PostgreSQL does this outside transactions: put it into a migration with `-- portolan: no-transaction`".to_owned()
        });
    }
    repeatable(statement)
}

const TRANSACTIONS: &[&str] =
    &["ABORT", "BEGIN", "COMMIT", "END", "PREPARE TRANSACTION", "RELEASE", "ROLLBACK", "SAVEPOINT", "START"];
const SETTINGS: &[&str] = &["ATTACH", "DETACH", "PRAGMA", "VACUUM"];
/// Beside CREATE INDEX CONCURRENTLY.
const ALONE: &[&str] = &["DROP INDEX CONCURRENTLY", "REINDEX", "VACUUM"];

fn backfill(statement: &Statement, transaction: bool) -> Option<String> {
    let rows = ["DELETE", "INSERT", "MERGE", "REPLACE", "UPDATE", "WITH"];
    if !rows.iter().any(|keyword| statement.begins(keyword)) {
        return Some(
            "a backfill changes rows and nothing else: put this into a migration of its own".to_owned(),
        );
    }
    (!transaction)
        .then(|| "a backfill has a transaction for each statement: leave `no-transaction` out".to_owned())
}

/// Without a transaction nobody knows, after a crash, whether a statement was run: it is run again.
fn repeatable(statement: &Statement) -> Option<String> {
    match statement.concurrent_index() {
        Some(Some(_)) => return None,
        Some(None) => {
            let what = "give the index a plain name, so that one that was left unfinished can be found";
            return Some(what.to_owned());
        }
        None => {}
    }
    let added = statement.begins("ALTER TYPE")
        && statement.words.windows(4).any(|words| {
            words.iter().zip(["VALUE", "IF", "NOT", "EXISTS"]).all(|(word, keyword)| word.is(keyword))
        });
    let fine = ["ANALYZE", "DROP INDEX CONCURRENTLY IF EXISTS", "VACUUM"];
    if added || fine.iter().any(|keywords| statement.begins(keywords)) {
        return None;
    }
    Some(
        "after a crash this would be run again. Outside transactions may stand: CREATE INDEX CONCURRENTLY, DROP INDEX \
         CONCURRENTLY IF EXISTS, ALTER TYPE ... ADD VALUE IF NOT EXISTS, ANALYZE, VACUUM; put the rest into another migration"
            .to_owned(),
    )
}
