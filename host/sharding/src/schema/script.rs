//! The text of a migration as statements, each with its line, so that each can be run, told and blamed on its own.
//!
//! This finds where statements end and which words they have, as each engine's own shell does; what they mean is the database's
//! business.

/// One statement of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The line on which it begins.
    pub line: u64,
    /// The statement, without its semicolon.
    pub text: String,
    pub(crate) words: Vec<Word>,
}

/// A word outside strings and comments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    quoted: bool,
    text: String,
}

/// What does not end: from which line on, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unended {
    pub(crate) line: u64,
    pub(crate) what: &'static str,
}

impl Word {
    pub(crate) fn is(&self, keyword: &str) -> bool {
        !self.quoted && self.text.eq_ignore_ascii_case(keyword)
    }

    /// The word as a name: PostgreSQL makes small letters of what is not quoted.
    pub(crate) fn name(&self) -> String {
        if self.quoted { self.text.clone() } else { self.text.to_ascii_lowercase() }
    }
}

impl Statement {
    /// Does it begin with these words?
    pub(crate) fn begins(&self, keywords: &str) -> bool {
        let mut words = self.words.iter();
        keywords.split(' ').all(|keyword| words.next().is_some_and(|word| word.is(keyword)))
    }

    /// The index that it creates while others write, if it does: `CREATE [UNIQUE] INDEX CONCURRENTLY [IF NOT EXISTS] NAME ON`.
    pub(crate) fn concurrent_index(&self) -> Option<Option<String>> {
        let rest = ["CREATE INDEX CONCURRENTLY", "CREATE UNIQUE INDEX CONCURRENTLY"]
            .iter()
            .find(|keywords| self.begins(keywords))
            .and_then(|keywords| self.words.get(keywords.split(' ').count()..))?;
        let exists = rest.first().is_some_and(|word| word.is("IF"));
        let mut rest = rest.iter().skip(if exists { 3 } else { 0 });
        let name = rest.next().filter(|word| !word.is("ON"));
        Some(name.filter(|_| rest.next().is_some_and(|word| word.is("ON"))).map(Word::name))
    }
}

/// Splits a text into statements.
pub(crate) fn split(text: &str, postgres: bool) -> Result<Vec<Statement>, Unended> {
    let mut lexer = Lexer { text, at: 0, postgres };
    let mut statements = Vec::new();
    let mut open = Open::default();
    loop {
        let from = lexer.at;
        let token = lexer.next()?;
        let over = matches!(token, Token::End);
        if !matches!(token, Token::Blank | Token::End | Token::Semicolon) && open.from.is_none() {
            open.from = Some(from);
        }
        let ends = match token {
            Token::End => true,
            Token::Semicolon => open.semicolon(postgres),
            Token::Word(word) => {
                open.word(word, postgres);
                false
            }
            Token::Other => {
                open.before_end = false;
                false
            }
            Token::Blank => false,
        };
        if ends && let Some(start) = open.from {
            let statement = text.get(start..from).unwrap_or_default().trim_end().to_owned();
            let words = std::mem::take(&mut open.words);
            statements.push(Statement { line: line(text, start), text: statement, words });
        }
        if ends {
            open = Open::default();
        }
        if over {
            return Ok(statements);
        }
    }
}

/// A statement that has begun.
#[derive(Default)]
struct Open {
    from: Option<usize>,
    words: Vec<Word>,
    /// Bodies of SQLite's triggers end with `; END ;`.
    after_semicolon: bool,
    before_end: bool,
    /// How many of `BEGIN ATOMIC` and `CASE` within it have no END yet.
    depth: usize,
}

impl Open {
    fn word(&mut self, word: Word, postgres: bool) {
        if postgres {
            let atomic = word.is("ATOMIC") && self.words.last().is_some_and(|last| last.is("BEGIN"));
            if atomic || self.depth > 0 && word.is("CASE") {
                self.depth += 1;
            } else if word.is("END") {
                self.depth = self.depth.saturating_sub(1);
            }
        }
        self.before_end = self.after_semicolon && word.is("END");
        self.after_semicolon = false;
        self.words.push(word);
    }

    /// Does this semicolon end it?
    fn semicolon(&mut self, postgres: bool) -> bool {
        if postgres {
            return self.depth == 0;
        }
        let mut words = self.words.iter().filter(|word| !word.is("TEMP") && !word.is("TEMPORARY"));
        let trigger = words.next().is_some_and(|word| word.is("CREATE"))
            && words.next().is_some_and(|word| word.is("TRIGGER"));
        if !trigger || self.before_end {
            return true;
        }
        self.after_semicolon = true;
        false
    }
}

enum Token {
    Blank,
    End,
    Other,
    Semicolon,
    Word(Word),
}

struct Lexer<'a> {
    at: usize,
    postgres: bool,
    text: &'a str,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Result<Token, Unended> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        if first.is_whitespace() {
            self.at += first.len_utf8();
            return Ok(Token::Blank);
        }
        if rest.starts_with("--") {
            self.at += rest.find('\n').unwrap_or(rest.len());
            return Ok(Token::Blank);
        }
        if rest.starts_with("/*") {
            return self.comment();
        }
        match first {
            ';' => {
                self.at += 1;
                Ok(Token::Semicolon)
            }
            '\'' => self.quoted('\'', "a string").map(|_| Token::Other),
            '"' => self.name('"'),
            '`' if !self.postgres => self.name('`'),
            '[' if !self.postgres => self.name(']'),
            '$' if self.postgres => self.dollar(),
            first if first.is_alphanumeric() || first == '_' => self.word(),
            first => {
                self.at += first.len_utf8();
                Ok(Token::Other)
            }
        }
    }

    fn unended(&self, what: &'static str) -> Unended {
        Unended { line: line(self.text, self.at), what }
    }

    /// PostgreSQL's comments hold comments.
    fn comment(&mut self) -> Result<Token, Unended> {
        let (mut depth, mut at) = (1, 2);
        while depth > 0 {
            let rest = self.rest().get(at..).unwrap_or_default();
            let Some(step) = rest.chars().next() else { return Err(self.unended("a comment")) };
            if rest.starts_with("*/") {
                depth -= 1;
                at += 2;
            } else if self.postgres && rest.starts_with("/*") {
                depth += 1;
                at += 2;
            } else {
                at += step.len_utf8();
            }
        }
        self.at += at;
        Ok(Token::Blank)
    }

    /// What stands between quotes; two of them are one.
    fn quoted(&mut self, quote: char, what: &'static str) -> Result<String, Unended> {
        self.quoted_with(quote, what, false)
    }

    fn quoted_with(&mut self, quote: char, what: &'static str, escapes: bool) -> Result<String, Unended> {
        let mut inner = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((at, next)) = chars.next() {
            if escapes && next == '\\' {
                chars.next();
            } else if next != quote {
                inner.push(next);
            } else if chars.peek().is_some_and(|(_, after)| *after == quote && quote != ']') {
                chars.next();
                inner.push(next);
            } else {
                self.at += at + 1;
                return Ok(inner);
            }
        }
        Err(self.unended(what))
    }

    fn name(&mut self, quote: char) -> Result<Token, Unended> {
        let text = self.quoted(quote, "a quoted name")?;
        Ok(Token::Word(Word { quoted: true, text }))
    }

    /// `$tag$ ... $tag$`, or a parameter.
    fn dollar(&mut self) -> Result<Token, Unended> {
        let rest = self.rest();
        let tag = rest.get(1..).and_then(|rest| rest.split_once('$')).map(|(tag, _)| tag);
        let plain = |tag: &&str| {
            tag.chars().all(|c| c.is_alphanumeric() || c == '_')
                && !tag.starts_with(|c: char| c.is_ascii_digit())
        };
        let Some(tag) = tag.filter(plain) else {
            self.at += 1;
            return Ok(Token::Other);
        };
        let mark = format!("${tag}$");
        let body = rest.get(mark.len()..).unwrap_or_default();
        let Some(end) = body.find(&mark) else { return Err(self.unended("a string in dollars")) };
        self.at += end + 2 * mark.len();
        Ok(Token::Other)
    }

    fn word(&mut self) -> Result<Token, Unended> {
        let rest = self.rest();
        let inner = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        let text = rest.get(..rest.find(|c| !inner(c)).unwrap_or(rest.len())).unwrap_or_default().to_owned();
        self.at += text.len();
        if self.postgres && text.eq_ignore_ascii_case("e") && self.rest().starts_with('\'') {
            return self.quoted_with('\'', "a string", true).map(|_| Token::Other);
        }
        Ok(Token::Word(Word { quoted: false, text }))
    }
}

/// The line of a place in a text, from 1.
pub(crate) fn line(text: &str, at: usize) -> u64 {
    let before = text.get(..at).unwrap_or_default();
    1 + before.bytes().filter(|byte| *byte == b'\n').count() as u64
}
