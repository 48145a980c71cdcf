//! An operator's folder of migrations, checked as a whole: plain data in, migrations or all problems out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::script::{self, Statement};
use crate::defaults::{MIGRATION_BYTES_MAX, MIGRATIONS_MAX};

/// What a migration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It changes rows of captured tables, where the shard is written. A repeated one runs each statement again and again until
    /// it touches no row.
    Backfill {
        /// Until no row is touched.
        repeated: bool,
    },
    /// It takes away what the schema before it used.
    Contract,
    /// It adds to the schema; whoever uses the schema before it goes on.
    Expand,
}

/// One migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The version that it takes back.
    pub compensates: Option<u64>,
    /// What it is for.
    pub kind: Kind,
    /// `create_notes` of `0001_create_notes.sql`.
    pub name: String,
    /// Its number.
    pub version: u64,
    postgres: Option<Script>,
    sqlite: Option<Script>,
}

/// A migration as one engine runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The SHA-256 of its text, in hexadecimal digits. Lines end with a line feed in it, whatever the file has.
    pub checksum: String,
    /// Where it was read.
    pub path: PathBuf,
    /// Its statements, at least one.
    pub statements: Vec<Statement>,
    /// Is it run in one transaction?
    pub transaction: bool,
}

/// All migrations, by their numbers, from 1 without gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrations(Vec<Migration>);

/// A file of the folder.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it was read.
    pub path: PathBuf,
    /// Is it for PostgreSQL? If not, for SQLite.
    pub postgres: bool,
    /// What it says.
    pub text: String,
}

/// Something wrong in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which line; none when it is the whole file.
    pub line: Option<u64>,
    /// Which file, or the folder.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl Kind {
    /// As a shard's database writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backfill { .. } => "backfill",
            Self::Contract => "contract",
            Self::Expand => "expand",
        }
    }
}

impl Migration {
    /// What an engine runs; none when the folder has nothing for it.
    #[must_use]
    pub const fn script(&self, postgres: bool) -> Option<&Script> {
        if postgres { self.postgres.as_ref() } else { self.sqlite.as_ref() }
    }
}

impl Migrations {
    /// Reads a folder: `FOLDER/{sqlite,postgres}/NNNN_verb_noun.sql`, at least one of both.
    ///
    /// # Errors
    /// All problems at once.
    pub fn load(folder: &Path) -> Result<Self, Vec<Problem>> {
        let (mut sources, mut problems, mut engines) = (Vec::new(), Vec::new(), 0);
        for (name, postgres) in [("postgres", true), ("sqlite", false)] {
            let folder = folder.join(name);
            if !folder.is_dir() {
                continue;
            }
            engines += 1;
            match files(&folder) {
                Err(error) => problems.push(problem(&folder, None, format!("cannot be read: {error}"))),
                Ok(files) => {
                    for path in files {
                        match read(&path) {
                            Ok(text) => sources.push(Source { path, postgres, text }),
                            Err(what) => problems.push(problem(&path, None, what)),
                        }
                    }
                }
            }
        }
        if engines == 0 {
            problems.push(problem(
                folder,
                None,
                "holds neither `sqlite` nor `postgres`: migrations are files there",
            ));
        }
        match Self::of(sources) {
            Ok(migrations) if problems.is_empty() => Ok(migrations),
            Ok(_) => Err(problems),
            Err(more) => Err(problems.into_iter().chain(more).collect()),
        }
    }

    /// Takes files that were read.
    ///
    /// # Errors
    /// All problems at once.
    pub fn of(sources: Vec<Source>) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut migrations: BTreeMap<u64, Migration> = BTreeMap::new();
        let mut last = BTreeMap::from([(true, 0), (false, 0)]);
        let mut sources: Vec<_> =
            sources.into_iter().filter_map(|source| numbered(source, &mut problems)).collect();
        sources.sort_by_key(|(version, _, source)| (source.postgres, *version));
        for (version, name, source) in sources {
            let before = last.insert(source.postgres, version).unwrap_or_default();
            if version != before + 1 {
                let what = if version == before {
                    format!("{version:04} is there twice: each number is one migration")
                } else {
                    format!("{:04} is missing before it: numbers have no gaps", before + 1)
                };
                problems.push(problem(&source.path, None, what));
            }
            let Some(read) = Read::of(version, name, &source, &mut problems) else { continue };
            match migrations.get_mut(&version) {
                None => {
                    migrations.insert(version, read.migration(source.postgres));
                }
                Some(migration) => {
                    problems.extend(read.differs(migration, &source.path));
                    let other = read.migration(source.postgres);
                    migration.postgres = migration.postgres.take().or(other.postgres);
                    migration.sqlite = migration.sqlite.take().or(other.sqlite);
                }
            }
        }
        let migrations: Vec<_> = migrations.into_values().collect();
        problems.extend(one_sided(&migrations));
        problems.extend(compensations(&migrations));
        if problems.is_empty() { Ok(Self(migrations)) } else { Err(problems) }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Migration> {
        self.0.iter()
    }

    /// The one of this number.
    #[must_use]
    pub fn find(&self, version: u64) -> Option<&Migration> {
        self.0.iter().find(|migration| migration.version == version)
    }

    /// The last number; 0 when there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.0.last().map_or(0, |migration| migration.version)
    }

    /// The one that takes a version back.
    #[must_use]
    pub fn compensation(&self, version: u64) -> Option<&Migration> {
        self.0.iter().find(|migration| migration.compensates == Some(version))
    }
}

/// What one file says.
struct Read {
    compensates: Option<u64>,
    kind: Kind,
    name: String,
    script: Script,
    version: u64,
}

impl Read {
    fn of(version: u64, name: String, source: &Source, problems: &mut Vec<Problem>) -> Option<Self> {
        let text = source.text.replace("\r\n", "\n");
        let header = Header::of(&text, source, problems);
        let statements = match script::split(&text, source.postgres) {
            Ok(statements) => statements,
            Err(unended) => {
                let what = format!("{} begins here and does not end", unended.what);
                problems.push(problem(&source.path, Some(unended.line), what));
                return None;
            }
        };
        if statements.is_empty() {
            problems.push(problem(&source.path, None, "holds no statement"));
            return None;
        }
        let check = |statement: &Statement| {
            let what = super::rules::check(statement, source.postgres, header.kind, header.transaction)?;
            Some(problem(&source.path, Some(statement.line), what))
        };
        problems.extend(statements.iter().filter_map(check));
        let checksum = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        let script =
            Script { checksum, path: source.path.clone(), statements, transaction: header.transaction };
        Some(Self { compensates: header.compensates, kind: header.kind, name, script, version })
    }

    fn migration(self, postgres: bool) -> Migration {
        let (of_postgres, of_sqlite) =
            if postgres { (Some(self.script), None) } else { (None, Some(self.script)) };
        Migration {
            compensates: self.compensates,
            kind: self.kind,
            name: self.name,
            version: self.version,
            postgres: of_postgres,
            sqlite: of_sqlite,
        }
    }

    /// Both engines go through one history.
    fn differs(&self, other: &Migration, path: &Path) -> Option<Problem> {
        let what = if self.name != other.name {
            format!("is named `{}` for the other engine: one number is one migration", other.name)
        } else if (self.kind, self.compensates) != (other.kind, other.compensates) {
            "says another `-- portolan:` than the file for the other engine".to_owned()
        } else {
            return None;
        };
        Some(problem(path, None, what))
    }
}

/// The comments above the first statement.
struct Header {
    compensates: Option<u64>,
    kind: Kind,
    transaction: bool,
}

impl Header {
    fn of(text: &str, source: &Source, problems: &mut Vec<Problem>) -> Self {
        let mut header = Self { compensates: None, kind: Kind::Expand, transaction: true };
        let (mut above, mut kinds) = (true, 0);
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            above &= line.is_empty() || line.starts_with("--");
            let Some(word) = line.strip_prefix("-- portolan:").map(str::trim) else { continue };
            let mut bad = |what: String| problems.push(problem(&source.path, Some(number), what));
            if !above {
                bad("`-- portolan:` stands above the first statement".to_owned());
            }
            let kind = match word {
                "backfill" => Some(Kind::Backfill { repeated: false }),
                "backfill repeated" => Some(Kind::Backfill { repeated: true }),
                "contract" => Some(Kind::Contract),
                "expand" => Some(Kind::Expand),
                _ => None,
            };
            let compensates = word.strip_prefix("compensates ").and_then(|version| version.parse().ok());
            if let Some(kind) = kind {
                header.kind = kind;
                kinds += 1;
            } else if compensates.is_some() {
                header.compensates = compensates;
            } else if word == "no-transaction" && source.postgres {
                header.transaction = false;
            } else if word == "no-transaction" {
                bad("SQLite does all of a migration in one transaction: leave `no-transaction` out"
                    .to_owned());
            } else {
                bad(format!(
                    "`{word}` is none of `expand`, `contract`, `backfill`, `backfill repeated`, `compensates NNNN`, \
                     `no-transaction`"
                ));
            }
            if kinds > 1 {
                bad("a migration is of one kind: split it".to_owned());
            }
        }
        header
    }
}

/// The number and name of a file.
fn numbered(source: Source, problems: &mut Vec<Problem>) -> Option<(u64, String, Source)> {
    let file = source.path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parts = file.strip_suffix(".sql").and_then(|stem| stem.split_once('_'));
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = parts.filter(|(number, name)| {
        number.len() == 4
            && name.contains('_')
            && name.split('_').all(|word| !word.is_empty() && word.chars().all(plain))
    });
    let version = good.and_then(|(number, _)| number.parse().ok()).filter(|version| *version > 0);
    match (version, good) {
        (Some(version), Some((_, name))) if version <= MIGRATIONS_MAX => {
            let name = name.to_owned();
            Some((version, name, source))
        }
        _ => {
            let what = "is no `NNNN_verb_noun.sql`, such as `0001_create_notes.sql`";
            problems.push(problem(&source.path, None, what));
            None
        }
    }
}

/// Where both engines have a folder, both have each migration.
fn one_sided(migrations: &[Migration]) -> Vec<Problem> {
    let has = |postgres| migrations.iter().filter_map(move |migration| migration.script(postgres));
    if has(true).next().is_none() || has(false).next().is_none() {
        return Vec::new();
    }
    let alone = |migration: &Migration| {
        let (there, missing) = match (&migration.postgres, &migration.sqlite) {
            (Some(script), None) => (script, "sqlite"),
            (None, Some(script)) => (script, "postgres"),
            _ => return None,
        };
        Some(problem(
            &there.path,
            None,
            format!("has no file in `{missing}`: both engines go through one history"),
        ))
    };
    migrations.iter().filter_map(alone).collect()
}

/// What is taken back comes before, and once.
fn compensations(migrations: &[Migration]) -> Vec<Problem> {
    let mut taken = BTreeSet::new();
    let mut problems = Vec::new();
    for migration in migrations {
        let Some(version) = migration.compensates else { continue };
        let what = if version == 0 || version >= migration.version {
            format!("compensates {version:04}, which does not come before it")
        } else if !taken.insert(version) {
            format!("compensates {version:04}, which another one does already")
        } else {
            continue;
        };
        let script = migration.postgres.as_ref().or(migration.sqlite.as_ref());
        problems.extend(script.map(|script| problem(&script.path, None, what)));
    }
    problems
}

/// The files of a folder, in order.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    // What editors and version control leave is nobody's migration.
    files.retain(|path| path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b".")));
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let bytes = std::fs::metadata(path).map_err(cannot)?.len();
    if bytes > MIGRATION_BYTES_MAX {
        return Err(format!("has {bytes} bytes; a migration has at most {MIGRATION_BYTES_MAX}"));
    }
    std::fs::read_to_string(path).map_err(cannot)
}

fn problem(path: &Path, line: Option<u64>, what: impl Into<String>) -> Problem {
    Problem { line, path: path.to_owned(), what: what.into() }
}
