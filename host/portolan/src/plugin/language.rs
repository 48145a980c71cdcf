//! The languages that policies are written in, and how a project of each is recognised.

use std::path::Path;

use anyhow::bail;
use clap::ValueEnum;

/// A language with a scaffold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// C, by zig or clang.
    C,
    /// Go.
    Go,
    /// JavaScript.
    Js,
    /// Python.
    Python,
    /// Rust, with the SDK.
    Rust,
    /// TypeScript.
    Ts,
    /// Zig.
    Zig,
}

/// A project file and the language that it tells of. Of two that are there, the first counts.
const PROJECT_FILES: [(&str, Language); 7] = [
    ("Cargo.toml", Language::Rust),
    ("tsconfig.json", Language::Ts),
    ("package.json", Language::Js),
    ("pyproject.toml", Language::Python),
    ("go.mod", Language::Go),
    ("build.zig", Language::Zig),
    ("Makefile", Language::C),
];

impl Language {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 7] =
        [Self::Rust, Self::Js, Self::Ts, Self::Python, Self::C, Self::Zig, Self::Go];

    /// The language of a project.
    ///
    /// # Errors
    /// When the folder is none.
    pub(crate) fn of(folder: &Path) -> anyhow::Result<Self> {
        let found = PROJECT_FILES.iter().find(|(name, _)| folder.join(name).is_file());
        let Some((_, language)) = found else {
            let names: Vec<&str> = PROJECT_FILES.iter().map(|(name, _)| *name).collect();
            bail!(
                "{} holds none of {}: `portolan plugin new NAME --lang LANGUAGE` writes a project",
                folder.display(),
                names.join(", ")
            );
        };
        Ok(*language)
    }

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::C => "c",
            Self::Go => "go",
            Self::Js => "js",
            Self::Python => "python",
            Self::Rust => "rust",
            Self::Ts => "ts",
            Self::Zig => "zig",
        }
    }
}
