//! Compiled code, and the only way to it. wasmtime trusts the bytes of an artefact entirely: whoever could forge one
//! would run what he likes in the gateway. So the only constructors of [`Artefact`] are our own compiler, the pipe of
//! our own compiler's process, and a cache entry whose keyed hash was made by this user's own node.
//!
//! This is the one file of the workspace that may say `unsafe`.

#![expect(unsafe_code, reason = "wasmtime's door for precompiled code is an unsafe function")]

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Bytes of a message authentication code.
pub(crate) const MAC_BYTES: usize = 32;

/// Machine code that our own compiler made.
pub(crate) struct Artefact(Place);

/// Where it is. Nobody can change it there.
enum Place {
    /// Memory of this process alone.
    Own(Vec<u8>),
    /// Memory that was sealed: not even this process can write to it.
    Sealed { memory: File, bytes: usize },
}

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
        write!(f, "Artefact({} bytes)", self.len())
    }
}

impl Artefact {
    /// Compiles here.
    pub(crate) fn compile(engine: &Engine, component: &[u8]) -> wasmtime::Result<Self> {
        engine.precompile_component(component).map(|code| Self(Place::Own(code)))
    }

    /// Takes what the process that we started to compile writes to the pipe that we gave it, into memory that is sealed
    /// before anybody looks at it. `pipe` must be no other.
    pub(crate) fn from_own_child(pipe: &mut impl Read, length: u64) -> io::Result<Self> {
        let pipe = &mut pipe.take(length);
        let sealing = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let Ok(memory) = memfd_create("portolan-code", sealing) else {
            // A kernel without it: memory of this process alone.
            let mut code = Vec::new();
            pipe.read_to_end(&mut code)?;
            return whole(code.len() as u64, length).map(|_| Self(Place::Own(code)));
        };
        let mut memory = File::from(memory);
        let bytes = whole(io::copy(pipe, &mut memory)?, length)?;
        memory.flush()?;
        fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(Self(Place::Sealed { memory, bytes }))
    }

    /// Takes an entry that [`Artefact::seal`] wrote under the same name with the same key; `None` for all others.
    pub(crate) fn unseal(key: &Key, name: &str, mut entry: Vec<u8>) -> Option<Self> {
        let mac: [u8; MAC_BYTES] = entry.get(..MAC_BYTES)?.try_into().ok()?;
        let code = entry.split_off(MAC_BYTES);
        // Comparing `Hash`es takes the same time wherever they differ.
        (key.mac(name, &code) == blake3::Hash::from_bytes(mac)).then_some(Self(Place::Own(code)))
    }

    /// The code that authenticates an entry of this name.
    pub(crate) fn seal(&self, key: &Key, name: &str) -> io::Result<[u8; MAC_BYTES]> {
        Ok(*key.mac(name, &self.bytes()?).as_bytes())
    }

    /// How many bytes.
    pub(crate) const fn len(&self) -> usize {
        match &self.0 {
            Place::Own(code) => code.len(),
            Place::Sealed { bytes, .. } => *bytes,
        }
    }

    /// The bytes, for the cache and the pipe.
    pub(crate) fn bytes(&self) -> io::Result<Cow<'_, [u8]>> {
        match &self.0 {
            Place::Own(code) => Ok(Cow::Borrowed(code)),
            Place::Sealed { memory, bytes } => {
                let mut code = vec![0; *bytes];
                memory.read_exact_at(&mut code, 0)?;
                Ok(Cow::Owned(code))
            }
        }
    }

    pub(crate) fn hash(&self) -> io::Result<blake3::Hash> {
        Ok(blake3::hash(&self.bytes()?))
    }

    /// Makes it runnable. The engine checks that its own version and settings made the code.
    pub(crate) fn load(&self, engine: &Engine) -> wasmtime::Result<Component> {
        if let Place::Sealed { memory, .. } = &self.0 {
            let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
            // SAFETY: as below; the file is memory that is sealed against writing, shrinking and growing.
            if let Ok(component) = unsafe { Component::deserialize_file(engine, path) } {
                return Ok(component);
            }
        }
        let code = self.bytes()?;
        // SAFETY: `Component::deserialize` asks for bytes that `precompile_component` made and nobody changed. They are
        // private to this type, never written after construction, and each constructor above says where they come from:
        // this process's compiler, the pipe of our own compiling child, or an authenticated copy of one of both.
        unsafe { Component::deserialize(engine, &code) }
    }
}

fn whole(got: u64, wanted: u64) -> io::Result<usize> {
    if got == wanted {
        return usize::try_from(got).map_err(io::Error::other);
    }
    Err(io::Error::other(format!("the code ends after {got} of {wanted} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_writes_is_sealed_whole_or_nothing() {
        let artefact = Artefact::from_own_child(&mut &b"code and more"[..], 4).unwrap();
        let Place::Sealed { memory, bytes: 4 } = &artefact.0 else { panic!("this kernel seals memory") };
        assert!(memory.write_at(b"x", 0).is_err() && memory.set_len(0).is_err());
        assert_eq!(&*artefact.bytes().unwrap(), b"code");
        assert!(Artefact::from_own_child(&mut &b"cod"[..], 4).is_err());
    }
}
