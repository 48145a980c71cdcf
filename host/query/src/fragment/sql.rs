//! A relation as a statement of one engine.
//!
//! Names come from the catalogue alone, values are bound. A statement is one SELECT as long as SQL's own order of clauses says what the
//! tree says, and a SELECT over a SELECT where it does not.

use portolan_changelog::Dialect;

use super::{Call, Field, Join, Node, Of, Op, Order, Test, Value};
use crate::catalogue::Table;
use crate::kind::Kind;

/// A statement with its values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Statement {
    /// What each column of its answer holds.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) text: String,
    pub(crate) values: Vec<Value>,
}

/// Whose rows may be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All tenants' that live on the shard. What a move left behind, or has brought and not handed over yet, is not seen: another shard
    /// has it.
    All,
    /// One tenant's.
    Tenant(String),
}

/// Writes a relation down.
pub(crate) fn statement(node: &Node, dialect: Dialect, scope: &Scope) -> Statement {
    let mut writer = Writer { dialect, scope, values: Vec::new(), names: 0 };
    let select = writer.select(node);
    let kinds = node.fields().iter().map(|field| field.kind).collect();
    let columns = select.columns.iter().map(|column| writer.read(column)).collect();
    Statement { kinds, text: select.text(columns), values: writer.values }
}

/// A SELECT whose clauses are being put together.
struct Select {
    columns: Vec<Expression>,
    from: String,
    group: Option<Vec<String>>,
    limit: Option<usize>,
    order: Vec<String>,
    wheres: Vec<String>,
}

/// How a column is written within its SELECT.
#[derive(Clone)]
struct Expression {
    field: Field,
    sql: String,
}

struct Writer<'a> {
    dialect: Dialect,
    names: usize,
    scope: &'a Scope,
    values: Vec<Value>,
}

impl Select {
    fn text(&self, columns: Vec<String>) -> String {
        // Rows without columns of interest are rows nevertheless, and one group of all is one row.
        let one_row = self.group.as_ref().is_some_and(Vec::is_empty);
        let columns = match (columns.is_empty(), one_row) {
            (true, true) => "max(1)".to_owned(),
            (true, false) => "1".to_owned(),
            (false, _) => columns.join(", "),
        };
        let mut text = format!("SELECT {columns} FROM {}", self.from);
        let mut clause = |word: &str, parts: &[String], between: &str| {
            if !parts.is_empty() {
                text += &format!(" {word} {}", parts.join(between));
            }
        };
        clause("WHERE", &self.wheres, " AND ");
        clause("GROUP BY", self.group.as_deref().unwrap_or_default(), ", ");
        clause("ORDER BY", &self.order, ", ");
        if let Some(limit) = self.limit {
            clause("LIMIT", &[limit.to_string()], "");
        }
        text
    }
}

impl Writer<'_> {
    fn select(&mut self, node: &Node) -> Select {
        match node {
            Node::Filter { input, tests } => {
                let mut select = self.select(input);
                if select.group.is_some() || select.limit.is_some() {
                    select = self.wrap(select);
                }
                for test in tests {
                    let test = self.test(test, &select.columns);
                    select.wheres.push(test);
                }
                select
            }
            Node::Group { input, keys, calls } => {
                let mut select = self.select(input);
                if select.group.is_some() || select.limit.is_some() {
                    select = self.wrap(select);
                }
                self.group(select, keys, calls)
            }
            Node::Join { join, left, right, on, tests } => self.join(*join, (left, right), on, tests),
            Node::Pick { input, columns } => {
                let mut select = self.select(input);
                select.columns =
                    columns.iter().filter_map(|column| select.columns.get(*column).cloned()).collect();
                select
            }
            Node::Scan(table) => self.scan(table),
            Node::Top { input, order, rows } => {
                let mut select = self.select(input);
                if select.limit.is_some() {
                    select = self.wrap(select);
                }
                select.order = order.iter().filter_map(|order| self.order(*order, &select.columns)).collect();
                select.limit = Some(*rows);
                select
            }
        }
    }

    fn scan(&mut self, table: &Table) -> Select {
        let name = self.name();
        let columns = Node::fields(&Node::Scan(std::sync::Arc::new(table.clone())));
        let columns = columns
            .into_iter()
            .map(|field| Expression { sql: format!("{name}.{}", quote(&field.name)), field });
        let from = match self.dialect {
            Dialect::Postgres => format!("public.{} {name}", quote(&table.name)),
            Dialect::Sqlite => format!("{} {name}", quote(&table.name)),
        };
        let mut wheres = Vec::new();
        if let Some(tenant) = &table.tenant {
            let tenant = format!("{name}.{}", quote(tenant));
            wheres.push(match self.scope {
                Scope::All => {
                    let moved = match self.dialect {
                        Dialect::Postgres => "portolan.tenant",
                        Dialect::Sqlite => "portolan_tenant",
                    };
                    format!("NOT EXISTS (SELECT 1 FROM {moved} m WHERE m.tenant = {tenant} AND m.away = 1)")
                }
                Scope::Tenant(own) => {
                    let value = self.value(&Value::Text(Kind::Text, own.clone()));
                    match self.dialect {
                        Dialect::Postgres => format!("{tenant} = {value}"),
                        Dialect::Sqlite => format!("{tenant} COLLATE BINARY = {value}"),
                    }
                }
            });
        }
        Select { columns: columns.collect(), from, group: None, limit: None, order: Vec::new(), wheres }
    }

    /// A SELECT as a table of another.
    fn inner(&mut self, select: &Select) -> (String, Vec<Expression>) {
        let name = self.name();
        let named = select.columns.iter().enumerate();
        let columns = named.clone().map(|(at, column)| format!("{} AS c{at}", column.sql)).collect();
        let outer = named
            .map(|(at, column)| Expression { field: column.field.clone(), sql: format!("{name}.c{at}") });
        (format!("({}) {name}", select.text(columns)), outer.collect())
    }

    fn wrap(&mut self, select: Select) -> Select {
        let (from, columns) = self.inner(&select);
        Select { columns, from, group: None, limit: None, order: Vec::new(), wheres: Vec::new() }
    }

    fn group(&mut self, mut select: Select, keys: &[usize], calls: &[Call]) -> Select {
        let keys: Vec<Expression> = keys.iter().filter_map(|key| select.columns.get(*key).cloned()).collect();
        let mut columns = Vec::new();
        for call in calls {
            let fields: Vec<Field> = select.columns.iter().map(|column| column.field.clone()).collect();
            columns.push(Expression { field: call.field(&fields), sql: self.call(call, &select.columns) });
        }
        select.group = Some(keys.iter().map(|key| self.bytewise(key)).collect());
        let keys = keys.into_iter().map(|key| Expression { sql: self.bytewise(&key), ..key });
        select.columns = keys.chain(columns).collect();
        select
    }

    fn call(&mut self, call: &Call, columns: &[Expression]) -> String {
        let of = |column: usize| {
            columns.get(column).map_or_else(|| "NULL".to_owned(), |column| self.bytewise(column))
        };
        let sql = match call.of {
            Of::Count(column) => format!("count({})", of(column)),
            Of::CountDistinct(column) => format!("count(DISTINCT {})", of(column)),
            Of::CountRows => "count(*)".to_owned(),
            Of::Max(column) => format!("max({})", of(column)),
            Of::Min(column) => format!("min({})", of(column)),
            Of::Sum(column) => format!("sum({})", of(column)),
        };
        let sql = match &call.filter {
            Some(test) => format!("{sql} FILTER (WHERE {})", self.test(test, columns)),
            None => sql,
        };
        match (self.dialect, call.of, call.kind) {
            // PostgreSQL's sum of bigint is a numeric; one that leaves the type is an error.
            (Dialect::Postgres, Of::Sum(_), Kind::Int64) => format!("({sql})::bigint"),
            _ => sql,
        }
    }

    fn join(
        &mut self,
        join: Join,
        (left, right): (&Node, &Node),
        on: &[(usize, usize)],
        tests: &[Test],
    ) -> Select {
        let left = self.select(left);
        let (from, mut columns) = self.inner(&left);
        let right = self.select(right);
        let (partner, more) = self.inner(&right);
        let own = columns.clone();
        columns.extend(more);
        let mut conditions: Vec<String> = Vec::new();
        for (left, right) in on {
            let pair = Test::Columns { left: *left, op: Op::Equal, right: own.len() + right };
            conditions.push(self.test(&pair, &columns));
        }
        for test in tests {
            conditions.push(self.test(test, &columns));
        }
        let condition = conditions.join(" AND ");
        let plain = |columns, from, wheres| Select {
            columns,
            from,
            group: None,
            limit: None,
            order: Vec::new(),
            wheres,
        };
        match join {
            Join::Inner => plain(columns, format!("{from} JOIN {partner} ON {condition}"), Vec::new()),
            Join::Left => plain(columns, format!("{from} LEFT JOIN {partner} ON {condition}"), Vec::new()),
            Join::Semi => {
                plain(own, from, vec![format!("EXISTS (SELECT 1 FROM {partner} WHERE {condition})")])
            }
            Join::Anti => {
                plain(own, from, vec![format!("NOT EXISTS (SELECT 1 FROM {partner} WHERE {condition})")])
            }
        }
    }

    fn order(&self, order: Order, columns: &[Expression]) -> Option<String> {
        let column = self.bytewise(columns.get(order.column)?);
        let way = if order.ascending { "ASC" } else { "DESC" };
        let nulls = if order.nulls_first { "FIRST" } else { "LAST" };
        Some(format!("{column} {way} NULLS {nulls}"))
    }

    fn test(&mut self, test: &Test, columns: &[Expression]) -> String {
        let of = |column: &usize| columns.get(*column);
        let plain = |column: &usize| of(column).map_or("NULL", |column| column.sql.as_str());
        match test {
            Test::All(tests) => self.several(tests, columns, " AND "),
            Test::Any(tests) => self.several(tests, columns, " OR "),
            Test::Among { column, values, not } => {
                let side =
                    of(column).map_or_else(|| "NULL".to_owned(), |column| self.compared(column, Op::Equal));
                let values: Vec<String> = values.iter().map(|value| self.value(value)).collect();
                format!("{side} {}IN ({})", if *not { "NOT " } else { "" }, values.join(", "))
            }
            Test::Columns { left, op, right } => {
                let (Some(left), Some(right)) = (of(left), of(right)) else { return "NULL".to_owned() };
                // Two texts of one known collation are equal when their bytes are.
                let same = left.field.collation == right.field.collation && !left.field.collation.is_empty();
                let bytes =
                    self.dialect == Dialect::Sqlite || !same || !matches!(op, Op::Equal | Op::Unequal);
                let side = |column| if bytes { self.bytewise(column) } else { column.sql.clone() };
                format!("{} {} {}", side(left), op.sql(), side(right))
            }
            Test::Known(truth) => match (truth, self.dialect) {
                (Some(true), _) => "(1 = 1)".to_owned(),
                (Some(false), _) => "(1 = 0)".to_owned(),
                (None, Dialect::Postgres) => "NULL::boolean".to_owned(),
                (None, Dialect::Sqlite) => "NULL".to_owned(),
            },
            Test::Not(test) => format!("NOT ({})", self.test(test, columns)),
            Test::Null { column, not } => {
                format!("{} IS {}NULL", plain(column), if *not { "NOT " } else { "" })
            }
            Test::True(column) => plain(column).to_owned(),
            Test::Value { column, op, value } => {
                let side = of(column).map_or_else(|| "NULL".to_owned(), |column| self.compared(column, *op));
                format!("{side} {} {}", op.sql(), self.value(value))
            }
        }
    }

    fn several(&mut self, tests: &[Test], columns: &[Expression], between: &str) -> String {
        let tests: Vec<String> = tests.iter().map(|test| self.test(test, columns)).collect();
        format!("({})", tests.join(between))
    }

    /// A column as it is compared with a value. Equality of texts is equality of bytes in each collation that is let through, so that
    /// PostgreSQL may use its indexes.
    fn compared(&self, column: &Expression, op: Op) -> String {
        match (self.dialect, op) {
            (Dialect::Postgres, Op::Equal | Op::Unequal) => column.sql.clone(),
            _ => self.bytewise(column),
        }
    }

    /// A column whose texts are compared by their bytes.
    fn bytewise(&self, column: &Expression) -> String {
        match (column.field.kind, self.dialect) {
            (Kind::Text, Dialect::Postgres) => format!("{} COLLATE \"C\"", column.sql),
            (Kind::Text | Kind::Uuid, Dialect::Sqlite) => format!("{} COLLATE BINARY", column.sql),
            _ => column.sql.clone(),
        }
    }

    /// A column as the answer has it.
    fn read(&self, column: &Expression) -> String {
        match (column.field.kind, self.dialect) {
            (Kind::Opaque, Dialect::Postgres) => format!("{}::text", column.sql),
            _ => column.sql.clone(),
        }
    }

    fn value(&mut self, value: &Value) -> String {
        let cast = match (value, self.dialect) {
            (Value::Boolean(_) | Value::Integer(_), _) | (_, Dialect::Sqlite) => "",
            (Value::Text(kind, _), Dialect::Postgres) => match kind {
                Kind::Date => "::date",
                Kind::Decimal(..) => "::numeric",
                Kind::Local => "::timestamp",
                Kind::Moment => "::timestamptz",
                Kind::Uuid => "::uuid",
                _ => "",
            },
        };
        self.values.push(value.clone());
        format!("${}{cast}", self.values.len())
    }

    fn name(&mut self) -> String {
        let name = format!("t{}", self.names);
        self.names += 1;
        name
    }
}

impl Op {
    const fn sql(self) -> &'static str {
        match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::AtMost => "<=",
            Self::Below => "<",
            Self::Equal => "=",
            Self::Unequal => "<>",
        }
    }
}

/// A name as SQL wants it.
fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
