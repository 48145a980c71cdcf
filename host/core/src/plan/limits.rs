//! How large a plan may be.

/// The bounds that [`super::Draft`] keeps. A refusal names the one that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers per plan.
    pub answers_max: u32,
    /// Calls into the draft per plan, refused ones included.
    pub calls_max: u32,
    /// Conditions per rule.
    pub conditions_max: u32,
    /// Header edits per answer.
    pub edits_max: u32,
    /// Bytes of memo.
    pub memo_bytes_max: u32,
    /// Attributes that a dynamic rule may declare.
    pub needs_max: u32,
    /// Rules per plan.
    pub rules_max: u32,
    /// Shares and fall-backs per rule.
    pub shares_max: u32,
    /// Bytes of all texts of a plan together.
    pub text_bytes_max: u32,
}

impl Limits {
    /// What a policy may use unless the operator says otherwise.
    pub const STANDARD: Self = Self {
        answers_max: 4_096,
        calls_max: 65_536,
        conditions_max: 16,
        edits_max: 64,
        memo_bytes_max: 64 * 1024,
        needs_max: 32,
        rules_max: 16_384,
        shares_max: 64,
        text_bytes_max: 8 * 1024 * 1024,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::STANDARD
    }
}
