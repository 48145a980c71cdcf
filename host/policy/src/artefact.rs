//! Compiled code, and the only way to it. wasmtime trusts the bytes of an artefact entirely: whoever could forge one
//! would run what he likes in the gateway. So the only constructors of [`Artefact`] are our own compiler, the pipe of
//! our own compiler's process, and a cache entry whose keyed hash was made by this user's own node.
//!
//! This is the one file of the workspace that may say `unsafe`.

#![expect(unsafe_code, reason = "wasmtime's door for precompiled code is an unsafe function")]

use std::fmt;

use wasmtime::Engine;
use wasmtime::component::Component;

/// Bytes of a message authentication code.
pub(crate) const MAC_BYTES: usize = 32;

/// Machine code that our own compiler made.
pub(crate) struct Artefact(Vec<u8>);

/// The secret that cache entries are authenticated with.
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) const fn new(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// Covers the name, too: an entry put under another name is not taken.
    fn mac(&self, name: &str, bytes: &[u8]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(bytes);
        hasher.finalize()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl fmt::Debug for Artefact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Artefact({} bytes)", self.0.len())
    }
}

impl Artefact {
    /// Compiles here.
    pub(crate) fn compile(engine: &Engine, component: &[u8]) -> wasmtime::Result<Self> {
        engine.precompile_component(component).map(Self)
    }

    /// Takes what the process that we started to compile wrote to the pipe that we gave it. `bytes` must come from
    /// nowhere else.
    pub(crate) const fn from_own_child(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Takes an entry that [`Artefact::seal`] wrote under the same name with the same key; `None` for all others.
    pub(crate) fn unseal(key: &Key, name: &str, mut entry: Vec<u8>) -> Option<Self> {
        let mac: [u8; MAC_BYTES] = entry.get(..MAC_BYTES)?.try_into().ok()?;
        let code = entry.split_off(MAC_BYTES);
        // Comparing `Hash`es takes the same time wherever they differ.
        (key.mac(name, &code) == blake3::Hash::from_bytes(mac)).then_some(Self(code))
    }

    /// The code that authenticates an entry of this name.
    pub(crate) fn seal(&self, key: &Key, name: &str) -> [u8; MAC_BYTES] {
        *key.mac(name, &self.0).as_bytes()
    }

    /// The bytes, for the cache and the pipe.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Makes it runnable. The engine checks that its own version and settings made the code.
    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        // SAFETY: `Component::deserialize` asks for bytes that `precompile_component` made and nobody changed. They are
        // private to this type, never written after construction, and each constructor above says where they come from:
        // this process's compiler, the pipe of our own compiling child, or an authenticated copy of one of both.
        unsafe { Component::deserialize(engine, &self.0) }
    }
}
