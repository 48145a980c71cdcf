//! Queries at random, from a seed: each has one right answer, since what limits rows orders all of them.

/// A die of many sides, the same for the same seed (SplitMix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(sides).unwrap()).unwrap()
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }

    fn some<'a>(&mut self, all: &[&'a str], most: usize) -> Vec<&'a str> {
        let count = 1 + self.below(most);
        let mut some = Vec::new();
        for _ in 0..count {
            let one = self.of(all);
            if !some.contains(&one) {
                some.push(one);
            }
        }
        some
    }
}

const COLUMNS: [&str; 12] = [
    "o.tenant",
    "o.id",
    "o.customer",
    "o.amount",
    "o.qty",
    "o.small",
    "o.note",
    "o.paid",
    "o.placed",
    "o.due",
    "o.ratio",
    "o.mark",
];

/// A condition on orders.
fn condition(dice: &mut Dice, depth: usize) -> String {
    if depth > 0 && dice.below(3) == 0 {
        let (one, other) = (condition(dice, depth - 1), condition(dice, depth - 1));
        return match dice.below(3) {
            0 => format!("({one} AND {other})"),
            1 => format!("({one} OR {other})"),
            _ => format!("NOT ({one})"),
        };
    }
    let op = dice.of(&["=", "<>", "<", "<=", ">", ">="]);
    let number = i64::try_from(dice.below(9)).unwrap() - 2;
    let text = super::shop::NOTES[dice.below(super::shop::NOTES.len())].replace('\'', "''");
    let tenant = dice.of(&super::shop::TENANTS);
    match dice.below(24) {
        0 => format!("o.qty {op} {number}"),
        1 => format!("o.small {op} {number}"),
        2 => format!("o.id {op} {}", number * 7),
        3 => format!("o.note {op} '{text}'"),
        4 => format!("o.note IN ('{text}', 'a', 'Z')"),
        5 => format!("o.note NOT IN ('{text}', 'b')"),
        6 => format!("{} IS NULL", dice.of(&COLUMNS)),
        7 => format!("{} IS NOT NULL", dice.of(&COLUMNS)),
        8 => "o.paid".to_owned(),
        9 => "NOT o.paid".to_owned(),
        10 => "o.paid IS NOT TRUE".to_owned(),
        11 => format!("o.amount {op} {number}.5"),
        12 => format!("o.amount {op} o.qty"),
        13 => format!("o.placed {op} '2026-02-0{}T12:00:00Z'", 1 + dice.below(9)),
        14 => format!("o.due {op} DATE '2026-01-1{}'", dice.below(9)),
        15 => format!("o.due BETWEEN DATE '2026-01-05' AND DATE '2026-02-1{}'", dice.below(9)),
        16 => format!("o.tenant = '{tenant}'"),
        17 => format!("o.tenant IN ('{tenant}', 'initech', 'nobody')"),
        18 => format!("o.qty + 1 {op} {number}"),
        19 => format!("o.ratio {op} {number}.25"),
        20 => format!("o.mark {op} '{}'", super::shop::mark(u8::try_from(dice.below(5)).unwrap())),
        21 => format!("o.customer {op} o.qty"),
        22 => format!("o.qty IN ({number}, 3, NULL)"),
        _ => format!("o.note LIKE '{}%'", dice.of(&["a", "A", "Z", "it"])),
    }
}

fn filter(dice: &mut Dice) -> String {
    match dice.below(4) {
        0 => String::new(),
        1 => format!("WHERE {} AND {}", condition(dice, 1), condition(dice, 1)),
        _ => format!("WHERE {}", condition(dice, 2)),
    }
}

/// An order that tells all rows of `o` apart, and how many of them.
fn top(dice: &mut Dice) -> String {
    let by = COLUMNS
        .iter()
        .filter(|column| **column != "o.ratio" || dice.below(2) == 0)
        .copied()
        .collect::<Vec<_>>();
    let by = dice.some(&by, 2);
    let by: Vec<String> = by
        .iter()
        .map(|column| format!("{column} {}", dice.of(&["", "DESC", "NULLS FIRST", "DESC NULLS LAST"])))
        .collect();
    let offset = if dice.below(3) == 0 { format!(" OFFSET {}", dice.below(6)) } else { String::new() };
    format!("ORDER BY {}, o.tenant, o.id LIMIT {}{offset}", by.join(", "), dice.below(12))
}

fn call(dice: &mut Dice) -> String {
    let filter =
        if dice.below(6) == 0 { format!(" FILTER (WHERE {})", condition(dice, 1)) } else { String::new() };
    let call = match dice.below(15) {
        0 => "count(*)".to_owned(),
        1 => format!("count({})", dice.of(&COLUMNS)),
        2 => format!("sum({})", dice.of(&["o.qty", "o.small", "o.id", "o.customer"])),
        3 => format!(
            "min({})",
            dice.of(&["o.qty", "o.id", "o.note", "o.placed", "o.due", "o.amount", "o.ratio", "o.mark"])
        ),
        4 => format!(
            "max({})",
            dice.of(&["o.qty", "o.small", "o.note", "o.placed", "o.due", "o.amount", "o.tenant"])
        ),
        5 => format!("avg({})", dice.of(&["o.qty", "o.small", "o.customer"])),
        6 => "sum(o.amount)".to_owned(),
        7 => "avg(o.amount)".to_owned(),
        8 => "count(DISTINCT o.tenant)".to_owned(),
        9 => format!("count(DISTINCT {})", dice.of(&["o.qty", "o.note", "o.due", "o.mark"])),
        10 => "sum(o.ratio)".to_owned(),
        11 => "min(o.qty + o.small)".to_owned(),
        12 => "bool_or(o.paid)".to_owned(),
        13 => "sum(o.qty * o.small)".to_owned(),
        _ => "count(o.note)".to_owned(),
    };
    call + &filter
}

fn grouped(dice: &mut Dice, from: &str) -> String {
    let keys = if dice.below(4) == 0 {
        Vec::new()
    } else {
        let keys =
            ["o.tenant", "o.note", "o.qty", "o.small", "o.paid", "o.due", "o.mark", "o.customer", "o.amount"];
        dice.some(&keys, 2)
    };
    let calls: Vec<String> = (0..=dice.below(3)).map(|at| format!("{} AS v{at}", call(dice))).collect();
    let keyed: Vec<String> = keys.iter().enumerate().map(|(at, key)| format!("{key} AS k{at}")).collect();
    let columns: Vec<String> = keyed.into_iter().chain(calls).collect();
    let mut sql = format!("SELECT {} FROM {from} {}", columns.join(", "), filter(dice));
    if !keys.is_empty() {
        sql += &format!(" GROUP BY {}", keys.join(", "));
        if dice.below(3) == 0 {
            sql += &format!(" HAVING count(*) > {}", dice.below(4));
        }
    }
    sql
}

fn joined(dice: &mut Dice) -> String {
    let join = dice.of(&["JOIN", "LEFT JOIN", "RIGHT JOIN"]);
    let extra = dice.of(&["", " AND c.country = 'de'", " AND c.name > o.note", " AND o.qty > 1"]);
    match dice.below(5) {
        0 => format!("orders o {join} customers c ON c.tenant = o.tenant AND c.id = o.customer{extra}"),
        1 => format!("orders o {join} customers c ON c.id = o.customer{extra}"),
        2 => format!("orders o {join} countries l ON l.rank = o.qty"),
        3 => format!(
            "orders o JOIN customers c ON c.tenant = o.tenant AND c.id = o.customer{extra} LEFT JOIN countries l ON l.code = c.country"
        ),
        _ => "countries l JOIN orders o ON l.rank = o.small".to_owned(),
    }
}

fn exists(dice: &mut Dice) -> String {
    let not = dice.of(&["", "NOT "]);
    match dice.below(4) {
        0 => format!("o.tenant {not}IN (SELECT c.tenant FROM customers c WHERE c.country = 'fr')"),
        1 => format!(
            "{not}EXISTS (SELECT 1 FROM customers c WHERE c.tenant = o.tenant AND c.id = o.customer AND c.name < 'b')"
        ),
        2 => format!("{not}EXISTS (SELECT 1 FROM countries l WHERE l.rank = o.qty)"),
        _ => "o.qty = (SELECT max(p.qty) FROM orders p WHERE p.tenant = o.tenant)".to_owned(),
    }
}

/// One query.
pub(super) fn query(dice: &mut Dice) -> String {
    let columns = dice.some(&COLUMNS, 4).join(", ");
    match dice.below(12) {
        0 => format!("SELECT {columns} FROM orders o {}", filter(dice)),
        1 | 2 => format!("SELECT {columns} FROM orders o {} {}", filter(dice), top(dice)),
        3 | 4 => grouped(dice, "orders o"),
        5 => format!("SELECT DISTINCT {columns} FROM orders o {}", filter(dice)),
        6 => format!("SELECT o.tenant AS a, o.id AS b, {columns} FROM {} {}", joined(dice), filter(dice)),
        7 => {
            let from = joined(dice);
            grouped(dice, &from)
        }
        8 => format!("SELECT {columns} FROM orders o WHERE {} AND {}", exists(dice), condition(dice, 1)),
        9 => format!(
            "SELECT o.tenant, o.id, {} OVER (PARTITION BY {} ORDER BY o.tenant, o.id) AS w FROM orders o {}",
            dice.of(&["row_number()", "sum(o.qty)", "max(o.note)", "lag(o.id)", "count(*)"]),
            dice.of(&["o.tenant", "o.note", "o.small"]),
            filter(dice)
        ),
        10 => format!(
            "WITH a AS (SELECT o.tenant, o.id, o.qty FROM orders o {}), b AS (SELECT o.tenant, count(*) AS n FROM orders o {} \
             GROUP BY o.tenant) SELECT a.tenant, a.qty, b.n FROM a JOIN b ON a.tenant = b.tenant UNION ALL \
             SELECT o.tenant, o.qty, o.id FROM orders o WHERE {}",
            filter(dice),
            filter(dice),
            condition(dice, 1)
        ),
        _ => format!(
            "SELECT o.tenant, o.id, o.qty FROM (SELECT o.tenant, o.id, o.qty, o.note FROM orders o {} {}) o WHERE {}",
            filter(dice),
            top(dice),
            ["o.qty > 1", "o.tenant = 'acme'", "o.note IS NULL"][dice.below(3)]
        ),
    }
}
