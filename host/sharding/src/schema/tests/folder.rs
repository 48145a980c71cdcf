//! What a folder of migrations may hold.

use std::path::PathBuf;

use crate::schema::script::split;
use crate::schema::{Kind, Migrations, Problem, Source};

fn source(path: &str, text: &str) -> Source {
    Source { path: PathBuf::from(path), postgres: path.starts_with("postgres"), text: text.to_owned() }
}

fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let sources = files.iter().map(|(path, text)| source(path, text)).collect();
    Migrations::of(sources)
        .map_or_else(|problems| problems.iter().map(ToString::to_string).collect(), |_| Vec::new())
}

#[test]
fn good_folders_are_read() {
    let files = [
        ("sqlite/0001_create_notes.sql", "-- Notes.\n-- portolan: expand\n\nCREATE TABLE notes (id);"),
        ("sqlite/0002_fill_it.sql", "-- portolan: backfill repeated\nUPDATE notes SET id = 1 WHERE id = 2"),
        ("sqlite/0003_add_index.sql", "CREATE INDEX i ON notes (id)"),
        ("sqlite/0004_drop_index.sql", "-- portolan: compensates 0003\n-- portolan: contract\nDROP INDEX i"),
        ("postgres/0004_drop_index.sql", "-- portolan: contract\n-- portolan: compensates 3\nDROP INDEX i"),
        (
            "postgres/0003_add_index.sql",
            "-- portolan: no-transaction\nCREATE INDEX CONCURRENTLY i ON notes (id)",
        ),
        (
            "postgres/0002_fill_it.sql",
            "-- portolan: backfill repeated\r\nUPDATE notes SET id = 1 WHERE id = 2",
        ),
        ("postgres/0001_create_notes.sql", "CREATE TABLE notes (id bigint)"),
    ];
    let read = |crlf: bool| {
        let text = |text: &str| {
            if crlf { text.replace("\r\n", "\n").replace('\n', "\r\n") } else { text.to_owned() }
        };
        Migrations::of(files.iter().map(|(path, content)| source(path, &text(content))).collect()).unwrap()
    };
    let migrations = read(false);
    let kinds: Vec<_> = migrations.iter().map(|migration| migration.kind).collect();
    assert_eq!(kinds, [Kind::Expand, Kind::Backfill { repeated: true }, Kind::Expand, Kind::Contract]);
    assert_eq!(migrations.last(), 4);
    assert_eq!(migrations.compensation(3).map(|migration| migration.version), Some(4));
    let index = migrations.find(3).unwrap();
    assert!(index.script(false).unwrap().transaction && !index.script(true).unwrap().transaction);
    let sums = |migrations: &Migrations| {
        migrations
            .iter()
            .map(|migration| migration.script(true).unwrap().checksum.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(sums(&migrations), sums(&read(true)));
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let told = problems(&[
        ("sqlite/1_create_notes.sql", "SELECT 1"),
        ("sqlite/0002_create_notes.sql", "\n\nBEGIN; CREATE TABLE a (id); PRAGMA x; DROP TABLE portolan_log"),
        ("sqlite/0003_say_hello.sql", "-- portolan: hello\nSELECT 'x"),
        ("sqlite/0004_say_other.sql", "SELECT 1"),
        (
            "postgres/0004_say_nothing.sql",
            "-- portolan: contract\n-- portolan: backfill\nCREATE TABLE a (id int)",
        ),
        ("postgres/0004_say_nothing.sql", "-- nothing"),
    ]);
    let expected = [
        "sqlite/1_create_notes.sql: is no `NNNN_verb_noun.sql`",
        "sqlite/0002_create_notes.sql: 0001 is missing before it",
        "sqlite/0002_create_notes.sql:3: portolan begins and ends",
        "sqlite/0002_create_notes.sql:3: this holds for a connection",
        "sqlite/0002_create_notes.sql:3: portolan's own tables",
        "sqlite/0003_say_hello.sql:1: `hello` is none of",
        "sqlite/0003_say_hello.sql:2: a string begins here and does not end",
        "postgres/0004_say_nothing.sql: 0001 is missing before it",
        "postgres/0004_say_nothing.sql:2: a migration is of one kind",
        "postgres/0004_say_nothing.sql:3: a backfill changes rows",
        "postgres/0004_say_nothing.sql: is named `say_other`",
        "postgres/0004_say_nothing.sql: 0004 is there twice",
        "postgres/0004_say_nothing.sql: holds no statement",
        "has no file in `postgres`",
    ];
    for expected in expected {
        assert!(told.iter().any(|told| told.contains(expected)), "{expected} is not in\n{}", told.join("\n"));
    }
}

#[test]
fn statements_must_fit_their_migration() {
    let alone = "-- portolan: no-transaction\n";
    for (text, why) in [
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "outside transactions"),
        ("VACUUM t", "outside transactions"),
        (&format!("{alone}CREATE INDEX CONCURRENTLY ON t (a)"), "plain name"),
        (&format!("{alone}CREATE TABLE t (a int)"), "run again"),
        (&format!("{alone}DROP INDEX CONCURRENTLY i"), "run again"),
        (&format!("{alone}-- portolan: backfill\nUPDATE t SET a = 1"), "leave `no-transaction` out"),
        ("SELECT 1;\n-- portolan: contract\nSELECT 2", "above the first statement"),
        ("-- portolan: compensates 0001\nSELECT 1", "does not come before"),
        ("\\i other.sql", "psql"),
    ] {
        let told = problems(&[("postgres/0001_do_it.sql", text)]);
        assert!(told.len() == 1 && told[0].contains(why), "{text}: {told:?}");
    }
    let fine = format!(
        "{alone}CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS \"I\" ON t (a); DROP INDEX CONCURRENTLY IF EXISTS i;
         ALTER TYPE kind ADD VALUE IF NOT EXISTS 'x'; VACUUM t; ANALYZE"
    );
    assert_eq!(problems(&[("postgres/0001_do_it.sql", &fine)]), Vec::<String>::new());
    assert_eq!(
        problems(&[
            ("sqlite/0001_do_it.sql", "SELECT 1"),
            ("sqlite/0002_undo_it.sql", "-- portolan: compensates 0001\nSELECT 1"),
            ("sqlite/0003_undo_it.sql", "-- portolan: compensates 0001\nSELECT 1"),
        ]),
        ["sqlite/0003_undo_it.sql: compensates 0001, which another one does already"]
    );
}

#[test]
fn statements_end_where_the_engines_say() {
    let texts = |text: &str, postgres| {
        let statements = split(text, postgres).unwrap();
        statements.into_iter().map(|statement| (statement.line, statement.text)).collect::<Vec<_>>()
    };
    for (text, postgres, count) in [
        ("", true, 0),
        ("-- ;\n/* ; */ ;;", false, 0),
        ("SELECT ';', \";\", 'it''s;'; SELECT 2", true, 2),
        ("SELECT E'\\';'; SELECT 2", true, 2),
        ("SELECT '\\'; SELECT 2", true, 2),
        ("SELECT $$;$$, $a$ $$ ; $b$ $a$; SELECT $1; SELECT 3", true, 3),
        ("/* /* ; */ ; */ SELECT 1", true, 1),
        (
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END; SELECT 3",
            true,
            2,
        ),
        (
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; DELETE FROM b; END; SELECT 1",
            false,
            2,
        ),
        ("CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END", false, 1),
        ("SELECT [a;b], `c;d`; SELECT 2", false, 2),
        ("SELECT a$b FROM t$; SELECT 2", true, 2),
        ("INSERT INTO t VALUES ('é;ü'); SELECT 'ß'", false, 2),
    ] {
        assert_eq!(texts(text, postgres).len(), count, "{text}: {:?}", texts(text, postgres));
    }
    assert_eq!(
        texts("\n-- first\nSELECT 1 ;\n\n  SELECT\n2", true),
        [(3, "SELECT 1".into()), (5, "SELECT\n2".into())]
    );
    for text in ["SELECT 'x", "SELECT \"x", "/* x", "SELECT $a$ x $b$"] {
        assert!(split(text, true).is_err(), "{text}");
    }
}

#[test]
fn folders_are_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = Migrations::load(folder.path()).unwrap_err();
    assert!(nothing[0].what.contains("neither"), "{nothing:?}");
    std::fs::create_dir(folder.path().join("sqlite")).unwrap();
    assert_eq!(Migrations::load(folder.path()).unwrap(), Migrations::default());
    std::fs::write(folder.path().join("sqlite/0001_create_notes.sql"), "CREATE TABLE notes (id)").unwrap();
    std::fs::write(folder.path().join("sqlite/.0001_create_notes.sql.swp"), "?").unwrap();
    assert_eq!(Migrations::load(folder.path()).unwrap().last(), 1);
    std::fs::write(folder.path().join("sqlite/0002_add_bytes.sql"), [0xff, 0xfe]).unwrap();
    std::fs::write(folder.path().join("sqlite/README.md"), "?").unwrap();
    let problems: Vec<Problem> = Migrations::load(folder.path()).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

proptest::proptest! {
    /// Whatever stands in a file: statements are its own text, in order, and split into themselves.
    #[test]
    fn any_text_is_split(text in "([a-zA-Z ;'\"$\\n\\[\\]`*/é-]|\\$a\\$|BEGIN ATOMIC |CASE |END;|CREATE TRIGGER |E'){0,24}", postgres: bool) {
        let Ok(statements) = split(&text, postgres) else { return Ok(()) };
        let mut rest = text.as_str();
        for statement in statements {
            let at = rest.find(&statement.text).unwrap();
            rest = rest.get(at + statement.text.len()..).unwrap();
            let again = split(&statement.text, postgres).unwrap();
            proptest::prop_assert_eq!(again.len(), 1);
            proptest::prop_assert_eq!(&again[0].text, &statement.text);
        }
    }
}
