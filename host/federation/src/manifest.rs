//! The list of a content's chunks, as a tree that is cut by content like the content itself.
//!
//! Entries are gathered into nodes; a node ends after an entry whose identity says so, and nodes are entries of the level above. So a change
//! of one chunk changes one node of each level, and two manifests differ in few nodes. The root names the recipe, the length
//! and the top of the tree.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::cut::Recipe;
use crate::defaults::{
    CHUNK_BYTES_MAX, CONTENT_BYTES_MAX, CONTENT_CHUNKS_MAX, INLINE_BYTES_MAX, NODE_ENTRIES_MAX,
    NODE_ENTRIES_MIN, NODE_ENTRIES_PERIOD,
};
use crate::id::{ChunkId, Namer, Root};

/// Levels of a tree: 32 entries at least under each node, so that 2^35 chunks would fit.
const LEVELS_MAX: u8 = 7;

/// A chunk in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Entry {
    /// Which chunk.
    pub id: ChunkId,
    /// How long it is, in bytes.
    pub bytes: u32,
}

/// A part of a tree: a chunk at the lowest level, a node above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// The name of the chunk or node.
    pub id: [u8; 32],
    /// What it has of the content, in bytes.
    pub bytes: u64,
}

/// What is below a node, as its name is made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// 0 for a node over chunks, one more for each level above.
    pub level: u8,
    /// The parts, in order.
    pub children: Vec<Child>,
}

/// What a root is the name of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Top {
    /// How content is cut and listed.
    pub recipe: Recipe,
    /// The length of the content, in bytes.
    pub bytes: u64,
    /// What it is made of.
    pub body: Body,
}

/// What a content is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Its bytes themselves, up to [`INLINE_BYTES_MAX`].
    Inline(Vec<u8>),
    /// The highest level of a tree.
    Tree(Node),
}

impl Top {
    /// The content's name.
    ///
    /// # Errors
    /// Never for what [`Top::check`] passes.
    pub fn root(&self, namer: &Namer) -> Result<Root, Error> {
        Ok(namer.root(&encode(self)?))
    }

    /// Reads what a peer or a store says that `root` is made of.
    ///
    /// # Errors
    /// When it is of another form, or has another name.
    pub fn read(bytes: &[u8], root: &Root, namer: &Namer) -> Result<Self, Error> {
        if namer.root(bytes) != *root {
            return Err(Error::Corrupt("a root"));
        }
        let top: Self = decode(bytes, "a root")?;
        top.check()?;
        Ok(top)
    }

    /// The form in which it is named, sent and kept.
    ///
    /// # Errors
    /// Never for what [`Top::check`] passes.
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        encode(self)
    }

    fn check(&self) -> Result<(), Error> {
        let sum = match &self.body {
            Body::Inline(bytes) if bytes.len() > INLINE_BYTES_MAX => {
                return Err(Error::limit("bytes of content in its record", INLINE_BYTES_MAX));
            }
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Tree(node) => node.check()?,
        };
        if sum != self.bytes || sum > CONTENT_BYTES_MAX {
            return Err(Error::Malformed("the length in a root"));
        }
        Ok(())
    }
}

impl Node {
    /// Reads a node that `child` of a node of `level` + 1 (or of the root) names.
    ///
    /// # Errors
    /// When it is of another form, has another name, level or length.
    pub fn read(bytes: &[u8], child: &Child, level: u8, namer: &Namer) -> Result<Self, Error> {
        if namer.node(bytes).0 != child.id {
            return Err(Error::Corrupt("a node"));
        }
        let node: Self = decode(bytes, "a node")?;
        if node.level != level || node.check()? != child.bytes {
            return Err(Error::Malformed("a node's place in its tree"));
        }
        Ok(node)
    }

    /// The form in which it is named, sent and kept.
    ///
    /// # Errors
    /// Never for nodes of this crate.
    pub fn bytes(&self) -> Result<Vec<u8>, Error> {
        encode(self)
    }

    /// The entries of a node over chunks.
    ///
    /// # Errors
    /// When it is not over chunks, or one of them is longer than a chunk.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        if self.level != 0 {
            return Err(Error::Malformed("a node over chunks"));
        }
        self.children.iter().map(Child::entry).collect()
    }

    /// Bytes of content below it.
    fn check(&self) -> Result<u64, Error> {
        if self.children.len() > NODE_ENTRIES_MAX || self.level >= LEVELS_MAX {
            return Err(Error::limit("entries of a node", NODE_ENTRIES_MAX));
        }
        let empty = self.children.iter().any(|child| child.bytes == 0);
        let sum = self.children.iter().try_fold(0_u64, |sum, child| sum.checked_add(child.bytes));
        match sum {
            Some(sum) if !empty && sum <= CONTENT_BYTES_MAX => Ok(sum),
            _ => Err(Error::Malformed("lengths in a node")),
        }
    }
}

impl Child {
    fn entry(&self) -> Result<Entry, Error> {
        match u32::try_from(self.bytes) {
            Ok(bytes) if bytes as usize <= CHUNK_BYTES_MAX => Ok(Entry { id: ChunkId(self.id), bytes }),
            _ => Err(Error::limit("bytes of a chunk", CHUNK_BYTES_MAX)),
        }
    }
}

impl From<Entry> for Child {
    fn from(entry: Entry) -> Self {
        Self { id: entry.id.0, bytes: entry.bytes.into() }
    }
}

/// Builds a tree while entries come, and holds one unfinished node of each level.
#[derive(Debug, Default)]
pub struct Builder {
    /// For each level: what is gathered, and whether a node of it has ended before.
    levels: Vec<(Vec<Child>, bool)>,
    bytes: u64,
}

impl Builder {
    /// Takes the next chunk; `keep` is given each node that ends, with its name.
    ///
    /// # Errors
    /// Past [`CONTENT_BYTES_MAX`], or what `keep` says.
    pub fn push(
        &mut self,
        entry: Entry,
        namer: &Namer,
        keep: &mut dyn FnMut(Child, Node) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.bytes += u64::from(entry.bytes);
        if self.bytes > CONTENT_BYTES_MAX {
            return Err(Error::Limit { what: "bytes of content", max: CONTENT_BYTES_MAX });
        }
        let mut child = Child::from(entry);
        for level in 0..LEVELS_MAX {
            let index = usize::from(level);
            if self.levels.len() <= index {
                self.levels.push((Vec::new(), false));
            }
            let Some((gathered, ended)) = self.levels.get_mut(index) else { break };
            gathered.push(child);
            if !ends(gathered) {
                break;
            }
            *ended = true;
            child = close(std::mem::take(gathered), level, namer, keep)?;
        }
        Ok(())
    }

    /// The top, as no more comes. Nodes that have not ended go to `keep` as they are.
    ///
    /// # Errors
    /// What `keep` says.
    pub fn finish(
        self,
        namer: &Namer,
        keep: &mut dyn FnMut(Child, Node) -> Result<(), Error>,
    ) -> Result<Top, Error> {
        let mut below: Option<Child> = None;
        let mut top = Node { level: 0, children: Vec::new() };
        for (level, (mut gathered, ended)) in (0..LEVELS_MAX).zip(self.levels) {
            gathered.extend(below.take());
            // The lowest level of which no node has ended is the top: all of it is here.
            if !ended {
                top = Node { level, children: gathered };
                break;
            }
            if !gathered.is_empty() {
                below = Some(close(gathered, level, namer, keep)?);
            }
        }
        Ok(Top { recipe: Recipe::FastCdc64K, bytes: self.bytes, body: Body::Tree(top) })
    }
}

fn ends(gathered: &[Child]) -> bool {
    let says_so = gathered.last().is_some_and(|child| {
        let [.., high, low] = child.id;
        u16::from_be_bytes([high, low]).is_multiple_of(NODE_ENTRIES_PERIOD)
    });
    gathered.len() >= NODE_ENTRIES_MAX || gathered.len() >= NODE_ENTRIES_MIN && says_so
}

fn close(
    children: Vec<Child>,
    level: u8,
    namer: &Namer,
    keep: &mut dyn FnMut(Child, Node) -> Result<(), Error>,
) -> Result<Child, Error> {
    let bytes = children.iter().map(|child| child.bytes).sum();
    let node = Node { level, children };
    let child = Child { id: namer.node(&encode(&node)?).0, bytes };
    keep(child, node)?;
    Ok(child)
}

/// All chunks of a content, in order, with the place of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: Vec<Entry>,
    bytes: u64,
}

impl Manifest {
    /// Adds the next chunk.
    ///
    /// # Errors
    /// Past [`CONTENT_CHUNKS_MAX`].
    pub fn push(&mut self, entry: Entry) -> Result<(), Error> {
        if self.entries.len() >= CONTENT_CHUNKS_MAX {
            return Err(Error::limit("chunks of content", CONTENT_CHUNKS_MAX));
        }
        self.entries.push(entry);
        self.bytes += u64::from(entry.bytes);
        Ok(())
    }

    /// The chunks, in order.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The length of the content, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The top of its tree; `keep` is given each node below it.
    ///
    /// # Errors
    /// What `keep` says.
    pub fn top(
        &self,
        namer: &Namer,
        keep: &mut dyn FnMut(Child, Node) -> Result<(), Error>,
    ) -> Result<Top, Error> {
        let mut builder = Builder::default();
        self.entries.iter().try_for_each(|entry| builder.push(*entry, namer, keep))?;
        builder.finish(namer, keep)
    }

    /// The content's name.
    ///
    /// # Errors
    /// Past [`CONTENT_BYTES_MAX`].
    pub fn root(&self, namer: &Namer) -> Result<Root, Error> {
        self.top(namer, &mut |_, _| Ok(()))?.root(namer)
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> {
    postcard::to_allocvec(value).map_err(|_| Error::Malformed("what is to be written"))
}

/// One value has one form: bytes that would be written otherwise are refused.
fn decode<T: Serialize + for<'a> Deserialize<'a>>(bytes: &[u8], what: &'static str) -> Result<T, Error> {
    let value: T = postcard::from_bytes(bytes).map_err(|_| Error::Malformed(what))?;
    if encode(&value)? == bytes { Ok(value) } else { Err(Error::Malformed(what)) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::tests::{manifest_of, namer, noise};

    /// Names of roots are a wire format too.
    #[test]
    fn roots_are_what_they_always_were() {
        let root = |bytes: &[u8]| manifest_of(7, bytes).root(&namer(7)).unwrap();
        let inline = Top { recipe: Recipe::FastCdc64K, bytes: 3, body: Body::Inline(b"abc".to_vec()) };
        let roots = [
            root(b""),
            root(&noise(1, 700_001)),
            root(&vec![0; 600_000]),
            inline.root(&namer(7)).unwrap(),
            many(3_000, None).root(&namer(7)).unwrap(),
        ];
        assert_eq!(roots.map(|root| root.to_string()), GOLDEN);
    }

    const GOLDEN: [&str; 5] = [
        "04afffe198ab65f4f0cdd14c393e47cc9d1701a3b2737f8169eb266343cc3a5c",
        "43e771d6de713b0a5851738695766db29aa4a1bf7fa9d121014a11177bcaf335",
        "7a92050b0a9b89e385e608c4515484d46c35e7c260f063acb7ed483f96f1ec6a",
        "d18c8ac9b7ecba4356f1848c3c3a510f592163174a5662aa3a70534bf22a9e33",
        "8c234387c337710eeec7da94088c6c9ae6da0c4e5d2a784c3944b8320b7c5b6d",
    ];

    /// A manifest of chunks that nobody has, one of them another one.
    fn many(chunks: u32, other: Option<u32>) -> Manifest {
        let mut manifest = Manifest::default();
        for number in 0..chunks {
            let text = if other == Some(number) { "other".to_owned() } else { number.to_string() };
            manifest.push(Entry { id: namer(7).chunk(text.as_bytes()), bytes: 70_000 + number % 9 }).unwrap();
        }
        manifest
    }

    fn tree(manifest: &Manifest) -> (Top, HashMap<[u8; 32], Vec<u8>>) {
        let mut nodes = HashMap::new();
        let mut keep = |child: Child, node: Node| {
            nodes.insert(child.id, node.bytes()?);
            Ok(())
        };
        let top = manifest.top(&namer(7), &mut keep).unwrap();
        (top, nodes)
    }

    fn leaves(node: &Node, nodes: &HashMap<[u8; 32], Vec<u8>>) -> Vec<Entry> {
        if node.level == 0 {
            return node.entries().unwrap();
        }
        let read = |child: &Child| Node::read(&nodes[&child.id], child, node.level - 1, &namer(7)).unwrap();
        node.children.iter().flat_map(|child| leaves(&read(child), nodes)).collect()
    }

    #[test]
    fn a_change_of_one_chunk_changes_one_node_of_each_level() {
        let (top, old) = tree(&many(30_000, None));
        let (other, new) = tree(&many(30_000, Some(12_345)));
        assert_ne!(top.root(&namer(7)).unwrap(), other.root(&namer(7)).unwrap());
        let changed = new.keys().filter(|id| !old.contains_key(*id)).count();
        assert!(old.len() > 100 && changed <= 4, "{changed} of {}", old.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_listed_is_read_again(chunks in 0_u32..9_000) {
            let manifest = many(chunks, None);
            let (top, nodes) = tree(&manifest);
            let root = top.root(&namer(7)).unwrap();
            let read = Top::read(&top.bytes().unwrap(), &root, &namer(7)).unwrap();
            let Body::Tree(node) = &read.body else { panic!("a tree") };
            prop_assert_eq!(leaves(node, &nodes), manifest.entries());
            prop_assert!(nodes.values().all(|node| node.len() < 20 << 10));
        }

        #[test]
        fn strange_bytes_are_refused(bytes: Vec<u8>, flip in 0_usize..4_000) {
            let root = namer(7).root(&bytes);
            if let Ok(top) = Top::read(&bytes, &root, &namer(7)) {
                prop_assert_eq!(top.bytes().unwrap(), bytes);
            }
            let (top, _) = tree(&many(100, None));
            let mut changed = top.bytes().unwrap();
            let place = flip % changed.len();
            changed[place] ^= 1;
            prop_assert!(Top::read(&changed, &top.root(&namer(7)).unwrap(), &namer(7)).is_err());
        }
    }
}
