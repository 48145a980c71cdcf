//! A problem of the configuration and how it is shown: message, file, line, column, a caret, and what to do.

use std::ops::Range;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use super::Source;

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An environment variable.
    Environment(String),
    /// A place in the source of this number, in bytes.
    File(usize, Range<usize>),
    /// Nowhere: it is missing.
    Nowhere,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) origin: Origin,
    pub(crate) help: Option<String>,
}

impl Problem {
    pub(crate) fn new(origin: Origin, message: impl Into<String>) -> Self {
        Self { message: message.into(), origin, help: None }
    }

    pub(crate) fn nowhere(message: impl Into<String>) -> Self {
        Self::new(Origin::Nowhere, message)
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// For the order in which problems are told: as they are written, then the environment, then what is missing.
    pub(crate) fn place(&self) -> (usize, usize) {
        match &self.origin {
            Origin::File(number, span) => (*number, span.start),
            Origin::Environment(_) => (usize::MAX - 1, 0),
            Origin::Nowhere => (usize::MAX, 0),
        }
    }

    /// Where it was written: file, line and column, from 1.
    pub(crate) fn file_place(&self, sources: &[Source]) -> Option<(String, u32, u32)> {
        let Origin::File(number, span) = &self.origin else { return None };
        let source = sources.get(*number)?;
        let before = source.text.get(..span.start).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|character| *character != '\n').count() + 1;
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Some((source.path.display().to_string(), number(line), number(column)))
    }

    /// What is wrong, without its place in a file: `message (help)`.
    pub(crate) fn text(&self) -> String {
        let variable = match &self.origin {
            Origin::Environment(name) => format!("${name}: "),
            Origin::File(..) | Origin::Nowhere => String::new(),
        };
        let help = self.help.as_deref().map_or_else(String::new, |help| format!(" ({help})"));
        format!("{variable}{}{help}", self.message)
    }

    /// One line: `file:line:column: message (help)`.
    pub(crate) fn line(&self, sources: &[Source]) -> String {
        let place = self.file_place(sources);
        let place =
            place.map_or_else(String::new, |(file, line, column)| format!("{file}:{line}:{column}: "));
        format!("{place}{}", self.text())
    }
}

/// A problem beside its text, as miette wants it.
#[derive(Debug)]
struct Shown<'p> {
    problem: &'p Problem,
    source: Option<NamedSource<String>>,
}

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.problem.origin {
            Origin::Environment(name) => write!(f, "${name}: {}", self.problem.message),
            _ => f.write_str(&self.problem.message),
        }
    }
}

impl std::error::Error for Shown<'_> {}

impl Diagnostic for Shown<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.problem.help.as_ref().map(|help| Box::new(help) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Origin::File(_, span) = &self.problem.origin else { return None };
        Some(Box::new(std::iter::once(LabeledSpan::new(None, span.start, span.len()))))
    }
}

/// All problems for people, with the lines that they are in.
pub(crate) fn render(problems: &[Problem], sources: &[Source], color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_width(110).with_links(false);
    let mut text = String::new();
    for problem in problems {
        let source = match &problem.origin {
            Origin::File(number, _) => sources
                .get(*number)
                .map(|source| NamedSource::new(source.path.display().to_string(), source.text.clone())),
            Origin::Environment(_) | Origin::Nowhere => None,
        };
        // Writing to a string cannot fail.
        handler.render_report(&mut text, &Shown { problem, source }).ok();
        text.push('\n');
    }
    text
}
