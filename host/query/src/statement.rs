//! What a text may be: one SELECT, or its EXPLAIN. All else is refused before anything is opened.

use std::collections::BTreeSet;

use datafusion::sql::parser::{DFParser, ExplainStatement, Statement};
use datafusion::sql::sqlparser::ast::{SetExpr, Statement as Sql};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use portolan_core::ids::TenantName;

use crate::defaults::{SQL_BYTES_MAX, VALUES_MAX};
use crate::error::Error;

/// Takes a text apart.
pub(crate) fn parse(sql: &str) -> Result<Statement, Error> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(Error::Limit(format!(
            "the statement has {} bytes, more than the {SQL_BYTES_MAX} that are taken: use a join in place of a long list",
            sql.len()
        )));
    }
    let dialect = PostgreSqlDialect {};
    let mut statements = DFParser::parse_sql_with_dialect(sql, &dialect)
        .map_err(|error| Error::Statement(error.strip_backtrace()))?;
    let (Some(statement), None) = (statements.pop_front(), statements.pop_front()) else {
        return Err(Error::Statement("send one statement: SELECT, or EXPLAIN of one".to_owned()));
    };
    if is_query(&statement) {
        Ok(statement)
    } else {
        let word = sql.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let word: String = word.chars().take(20).collect();
        Err(Error::Writes(format!(
            "{word} is not taken here, and nothing has changed: queries only read. Write with /-/data, change the schema with \
             `portolan migrate`"
        )))
    }
}

fn is_query(statement: &Statement) -> bool {
    match statement {
        Statement::Explain(ExplainStatement { options, statement }) => {
            !options.analyze && is_query(statement)
        }
        Statement::Statement(sql) => match sql.as_ref() {
            Sql::Query(query) => {
                let writes = |body: &SetExpr| {
                    matches!(
                        body,
                        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
                    )
                };
                let into = matches!(query.body.as_ref(), SetExpr::Select(select) if select.into.is_some());
                let with = query.with.iter().flat_map(|with| &with.cte_tables);
                !writes(&query.body)
                    && !into
                    && query.locks.is_empty()
                    && !with.into_iter().any(|table| writes(&table.query.body))
            }
            Sql::Explain { statement, analyze: false, .. } => {
                is_query(&Statement::Statement(statement.clone()))
            }
            _ => false,
        },
        _ => false,
    }
}

/// The texts of a statement that could name tenants: for each of them it is worth to know the shard. What is no statement names none.
#[must_use]
pub fn tenants(sql: &str) -> BTreeSet<TenantName> {
    if sql.len() > SQL_BYTES_MAX {
        return BTreeSet::new();
    }
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize().unwrap_or_default();
    let names = tokens.iter().filter_map(|token| match token {
        Token::SingleQuotedString(text) => TenantName::new(text).ok(),
        _ => None,
    });
    names.take(VALUES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_reads_is_taken() {
        for good in [
            "SELECT 1",
            "select * from a join b on a.x = b.x order by 1 limit 3;",
            "WITH a AS (SELECT 1) SELECT * FROM a UNION ALL SELECT 2",
            "VALUES (1), (2)",
            "EXPLAIN SELECT 1",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "INSERT INTO notes VALUES (1)",
            "UPDATE notes SET a = 1",
            "DELETE FROM notes",
            "DROP TABLE notes",
            "CREATE TABLE x AS SELECT 1",
            "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
            "COPY notes TO '/tmp/x'",
            "SET datafusion.execution.batch_size = 1",
            "EXPLAIN INSERT INTO notes VALUES (1)",
            "EXPLAIN ANALYZE SELECT 1",
            "SELECT * INTO x FROM notes",
            "SELECT * FROM notes FOR UPDATE",
            "WITH gone AS (DELETE FROM notes RETURNING *) SELECT * FROM gone",
            "BEGIN",
            "TRUNCATE notes",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(matches!(error, Error::Writes(_)), "{bad}: {error}");
        }
        for wrong in ["", "SELECT", "SELECT 1; SELECT 2", "SELEC 1"] {
            assert!(matches!(parse(wrong), Err(Error::Statement(_))), "{wrong}");
        }
        assert!(matches!(parse(&"x".repeat(SQL_BYTES_MAX + 1)), Err(Error::Limit(_))));
    }

    #[test]
    fn tenants_are_found_by_their_texts() {
        let found =
            tenants("SELECT 'it''s', \"acme\", 'acme' FROM a WHERE b IN ('globex', 'No Tenant') -- 'not'");
        let names: Vec<&str> = found.iter().map(TenantName::as_str).collect();
        assert_eq!(names, ["acme", "globex"]);
    }
}
