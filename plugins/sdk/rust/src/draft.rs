//! The plan that a policy writes.

use std::fmt;

use crate::host;

/// Why the gateway refused a call, or why a policy refuses to plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 1 a limit was passed, 2 something named does not exist, 3 the gateway does not know the word, 4 the value does not
    /// fit, 5 the rule makes no sense. Others may come.
    pub code: u32,
    /// What is wrong, for people.
    pub message: String,
}

impl Refusal {
    /// A policy's own refusal of its configuration (code 4).
    #[must_use]
    pub fn value(message: impl Into<String>) -> Self {
        Self { code: 4, message: message.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code)
    }
}

impl std::error::Error for Refusal {}

/// One possible outcome of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer(pub(crate) u32);

/// A rule of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule(pub(crate) u32);

impl Rule {
    /// Its number, as `decide` is given it.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// How a condition compares an attribute with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// There is no value.
    Absent,
    /// Equals one of the value's lines.
    Any,
    /// Lies in one of the comma-separated networks; only for `client.ip`.
    Cidr,
    /// Equals.
    Is,
    /// Is absent or differs.
    Not,
    /// Path segments with `*` and a last `**`.
    Pattern,
    /// Begins with; of `path`, whole segments only.
    Prefix,
    /// There is a value.
    Present,
    /// Ends with.
    Suffix,
}

impl Test {
    const fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Any => "any",
            Self::Cidr => "cidr",
            Self::Is => "is",
            Self::Not => "not",
            Self::Pattern => "pattern",
            Self::Prefix => "prefix",
            Self::Present => "present",
            Self::Suffix => "suffix",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) attribute: String,
    pub(crate) test: &'static str,
    pub(crate) value: String,
}

/// The plan that is being written. Every call is checked; a refused one changes nothing.
#[derive(Debug)]
pub struct Draft(pub(crate) ());

impl Draft {
    /// Send the request to a pool of a region.
    ///
    /// # Errors
    /// When one of both does not exist.
    pub fn forward(&mut self, region: &str, pool: &str) -> Result<Answer, Refusal> {
        host::forward(region, pool).map(Answer)
    }

    /// Answer at once. `content_type` may be empty; `body` has at most 65,536 bytes.
    ///
    /// # Errors
    /// When the status is not one of 200 to 599, or the body is too large.
    pub fn respond(&mut self, status: u16, content_type: &str, body: &str) -> Result<Answer, Refusal> {
        host::respond(status, content_type, body).map(Answer)
    }

    /// Answer with a redirect: 301, 302, 303, 307 or 308. `{host}`, `{path}` and `{query}` stand for the request's own.
    ///
    /// # Errors
    /// When status or location do not fit.
    pub fn redirect(&mut self, status: u16, location: &str) -> Result<Answer, Refusal> {
        host::redirect(status, location).map(Answer)
    }

    /// Leave the request to the next slot.
    pub fn leave(&mut self) -> Answer {
        Answer(host::next())
    }

    /// Begins a rule. The first rule of a plan that matches a request decides.
    pub fn rule(&mut self) -> RuleBuilder<'_> {
        RuleBuilder { _draft: self, fallback: Vec::new(), properties: Vec::new(), when: Vec::new() }
    }

    /// Sets a property of an answer, such as `header.set:x-canary` or `path.rewrite`; the contract lists them.
    ///
    /// # Errors
    /// When key or value do not fit.
    pub fn set_answer(&mut self, answer: Answer, key: &str, value: &str) -> Result<(), Refusal> {
        host::set_answer(answer.0, key, value)
    }

    /// Leaves bytes for [`crate::Decider::start`], at most 65,536.
    ///
    /// # Errors
    /// When there are more.
    pub fn memo(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        host::memo(bytes)
    }
}

/// A rule on its way into the draft; [`RuleBuilder::split`] or [`RuleBuilder::dynamic`] puts it there.
#[derive(Debug)]
pub struct RuleBuilder<'d> {
    _draft: &'d mut Draft,
    fallback: Vec<u32>,
    properties: Vec<(&'static str, String)>,
    when: Vec<Condition>,
}

impl RuleBuilder<'_> {
    /// One more thing that must hold.
    #[must_use]
    pub fn when(mut self, attribute: impl Into<String>, test: Test, value: impl Into<String>) -> Self {
        self.when.push(Condition { attribute: attribute.into(), test: test.name(), value: value.into() });
        self
    }

    /// The attribute must equal the value.
    #[must_use]
    pub fn is(self, attribute: impl Into<String>, value: impl Into<String>) -> Self {
        self.when(attribute, Test::Is, value)
    }

    /// The request must have the attribute.
    #[must_use]
    pub fn has(self, attribute: impl Into<String>) -> Self {
        self.when(attribute, Test::Present, "")
    }

    /// The path must lie below this one.
    #[must_use]
    pub fn below(self, path: impl Into<String>) -> Self {
        self.when("path", Test::Prefix, path)
    }

    /// Where to go, in this order, when no share can take the request.
    #[must_use]
    pub fn fall_back_to(mut self, answers: impl IntoIterator<Item = Answer>) -> Self {
        self.fallback.extend(answers.into_iter().map(|answer| answer.0));
        self
    }

    /// What people call the rule.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        self.set("name", name)
    }

    /// Requests with the same value of this attribute get the same share.
    #[must_use]
    pub fn sticky(self, attribute: impl Into<String>) -> Self {
        self.set("sticky", attribute)
    }

    /// Sets a property of the rule; the contract lists them.
    #[must_use]
    pub fn set(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.properties.push((key, value.into()));
        self
    }

    /// Draws one of these answers by weight.
    ///
    /// # Errors
    /// When anything about the rule does not fit.
    pub fn split(self, to: impl IntoIterator<Item = (Answer, u32)>) -> Result<Rule, Refusal> {
        let to: Vec<(u32, u32)> = to.into_iter().map(|(answer, weight)| (answer.0, weight)).collect();
        let rule = host::split(&self.when, &to, &self.fallback)?;
        Self::finish(rule, &self.properties)
    }

    /// Takes the first of these answers that can take the request.
    ///
    /// # Errors
    /// As [`RuleBuilder::split`].
    pub fn first_of(self, answers: impl IntoIterator<Item = Answer>) -> Result<Rule, Refusal> {
        let mut answers = answers.into_iter();
        let Some(first) = answers.next() else {
            return Err(Refusal { code: 5, message: "the rule has no answer".to_owned() });
        };
        self.fall_back_to(answers).split([(first, 1)])
    }

    /// Asks [`crate::Decider::decide`] on each request, with the values of `needs`. Without an answer, the first of
    /// `among` that can take the request does: list them by preference.
    ///
    /// # Errors
    /// As [`RuleBuilder::split`].
    pub fn dynamic(self, needs: &[&str], among: impl IntoIterator<Item = Answer>) -> Result<Rule, Refusal> {
        let among: Vec<u32> = among.into_iter().map(|answer| answer.0).collect();
        let rule = host::dynamic(&self.when, needs, &among)?;
        Self::finish(rule, &self.properties)
    }

    fn finish(rule: u32, properties: &[(&'static str, String)]) -> Result<Rule, Refusal> {
        for (key, value) in properties {
            host::set_rule(rule, key, value)?;
        }
        Ok(Rule(rule))
    }
}
