//! The Rust files: a head in each, and words that belong to one place only.

use std::path::Path;

use crate::{files, read, root, verdict};

/// Where Rust files live.
const FOLDERS: &[&str] = &["host", "plugins", "tests", "examples"];

/// A head of one word says nothing yet.
const HEAD_WORDS_MIN: usize = 2;

/// Words that may stand in the code of few files. Clippy bans some of them too; these hold also where a lint is allowed.
struct Ban {
    words: &'static [&'static str],
    /// The ban holds below these folders.
    below: &'static [&'static str],
    /// The files that may use the words, each with its reason.
    except: &'static [(&'static str, &'static str)],
    advice: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        words: &["unsafe_code"],
        below: FOLDERS,
        except: &[
            (
                "host/policy/src/artefact.rs",
                "wasmtime trusts precompiled code; this file proves that our own compiler made it",
            ),
            (
                "plugins/sdk/rust/src/bindings.rs",
                "bindings that wit-bindgen generates, inside the guest's sandbox",
            ),
            (
                "plugins/sdk/rust/src/lib.rs",
                "a section of text in the guest's module, which the language calls unsafe",
            ),
            (
                "plugins/sdk/rust/src/values.rs",
                "texts that the gateway packed are UTF-8, as are all strings that bindings take from it",
            ),
        ],
        advice: "find a safe way (rustix wraps most system calls); if there is none, keep the unsafe part in one small file, \
                 have it reviewed, and list it with its reason in tests/tidy/sources.rs",
    },
    Ban {
        words: &["tokio::spawn(", "tokio::task::spawn(", "tokio::task::spawn_local("],
        below: FOLDERS,
        except: &[("host/foundation/src/task.rs", "it names tasks and reports their panics")],
        advice: "use foundation::task, which names the task and reports its panic; in tests, a JoinSet",
    },
    Ban {
        words: &["SystemTime::now", "UNIX_EPOCH"],
        below: &["host", "plugins"],
        except: &[("host/foundation/src/clock.rs", "the one reader of the wall clock")],
        advice: "use foundation::clock, or take the time as an argument",
    },
    Ban {
        words: &[
            "Instant::now",
            "RandomState",
            "TcpListener",
            "TcpStream",
            "UdpSocket",
            "async ",
            "std::env",
            "std::fs",
            "std::io",
            "std::process",
            "thread_rng",
        ],
        below: &["host/core"],
        except: &[],
        advice: "core does no I/O, reads no clock and draws no random numbers: take the value as an argument",
    },
];

/// Is the first thing in the file a `//!` head that says something?
fn headless(file: &Path, text: &str) -> Option<String> {
    let head = text.lines().map_while(|line| line.strip_prefix("//!"));
    let words = head.flat_map(str::split_whitespace).count();
    (words < HEAD_WORDS_MIN).then(|| {
        format!("{}: open the file with `//!` and say what it owns and what it must not do", file.display())
    })
}

/// The banned words in the code of one file; comments may name them.
fn banned(file: &Path, text: &str) -> Vec<String> {
    let holds = |ban: &&Ban| {
        ban.below.iter().any(|folder| file.starts_with(folder))
            && !ban.except.iter().any(|(except, _)| file == Path::new(except))
    };
    let mut problems = Vec::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let code = line.split_once("//").map_or(line, |(code, _)| code);
        for ban in BANS.iter().filter(holds) {
            for word in ban.words.iter().filter(|word| code.contains(**word)) {
                let word = word.trim_end_matches([' ', '(']);
                problems.push(format!("{}:{number}: `{word}`: {}", file.display(), ban.advice));
            }
        }
    }
    problems
}

fn look(check: impl Fn(&Path, &str) -> Vec<String>) -> anyhow::Result<Vec<String>> {
    let (mut seen, mut problems) = (0, Vec::new());
    for folder in FOLDERS {
        for file in files(root(), folder)? {
            if file.extension().is_some_and(|extension| extension == "rs") {
                seen += 1;
                problems.extend(check(&file, &read(root(), &file)?));
            }
        }
    }
    anyhow::ensure!(seen > 0, "found no Rust file under {}", root().display());
    Ok(problems)
}

#[test]
fn every_file_opens_with_its_purpose() -> anyhow::Result<()> {
    verdict("Every Rust file has a head", &look(|file, text| headless(file, text).into_iter().collect())?);
    Ok(())
}

#[test]
fn words_stay_in_their_places() -> anyhow::Result<()> {
    // These tests name all the words that they look for.
    let look =
        look(|file, text| if file.starts_with("tests/tidy") { Vec::new() } else { banned(file, text) });
    verdict("Some words belong to one place", &look?);
    Ok(())
}

#[test]
fn exceptions_are_still_used() -> anyhow::Result<()> {
    let mut problems = Vec::new();
    for ban in BANS {
        for (file, _) in ban.except {
            let text = if root().join(file).exists() { read(root(), file)? } else { String::new() };
            if !ban.words.iter().any(|word| text.contains(word)) {
                problems.push(format!(
                    "{file} no longer needs `{}`: take it off the list",
                    ban.words.join("`, `")
                ));
            }
        }
    }
    verdict("Exceptions in tests/tidy/sources.rs are in use", &problems);
    Ok(())
}

#[test]
fn missing_heads_are_found() {
    let cases = [
        ("//! Owns the sockets of listeners.\n\nuse std::io;\n", true),
        ("//! Owns the sockets\n//! of listeners.\n", true),
        ("#![no_main]\n//! Owns the sockets of listeners.\n", false),
        ("// Owns the sockets of listeners.\n", false),
        ("//! later\n", false),
        ("", false),
    ];
    for (text, good) in cases {
        assert_eq!(headless(Path::new("host/x/src/lib.rs"), text).is_none(), good, "{text}");
    }
}

#[test]
fn words_out_of_place_are_found() {
    let cases = [
        ("host/proxy/src/server.rs", "    tokio::spawn(serve());", false),
        ("host/proxy/src/server.rs", "    // Not tokio::spawn(): it has no name.", true),
        ("host/proxy/src/server.rs", "    tokio::task::spawn_blocking(read);", true),
        ("host/foundation/src/task.rs", "    tokio::spawn(future)", true),
        ("host/foundation/src/net.rs", "#[expect(unsafe_code, reason = \"fast\")]", false),
        ("host/policy/src/artefact.rs", "#[expect(unsafe_code, reason = \"checked\")]", true),
        ("host/core/src/health.rs", "    let now = Instant::now();", false),
        ("host/proxy/src/probe.rs", "    let now = Instant::now();", true),
        ("host/portolan/src/cli.rs", "    SystemTime::now()", false),
    ];
    for (file, line, good) in cases {
        assert_eq!(banned(Path::new(file), line).is_empty(), good, "{file}: {line}");
    }
}
