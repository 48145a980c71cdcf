//! The policies that are built into the binary.

/// One of them.
#[derive(Debug)]
pub(crate) struct Bundled {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) component: &'static [u8],
}

/// All of them; none when the binary was built before `cargo xtask setup`.
pub(crate) const ALL: &[Bundled] = include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// What to do about a binary that has none.
pub(crate) const HOW_TO_GET_THEM: &str =
    "this binary was built without the bundled policies: run `cargo xtask setup` and build it again";

/// One by name.
pub(crate) fn find(name: &str) -> Option<&'static Bundled> {
    ALL.iter().find(|bundled| bundled.name == name)
}
