//! Genesis files that are too large to be held for long: the state of an application has hundreds
//! of megabytes on large networks, and only `InitChain` needs it.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use blocksync::ids::Hash;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// Bytes read from a file at a time.
const PIECE: usize = 1 << 20;

/// Some editors put it before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A genesis document without `app_state`.
pub(crate) struct Outline {
    /// The document, which everything else of a genesis is read from.
    pub(crate) json: Bytes,
    /// SHA-256 of the whole file.
    pub(crate) digest: Hash,
}

impl Outline {
    /// Reads a file piece by piece: of `app_state` no more than a piece is in memory.
    ///
    /// # Errors
    /// When the file cannot be read, or is no object of JSON.
    pub(crate) fn read(file: &Path) -> io::Result<Outline> {
        let hashed = Hashed {
            inner: File::open(file)?,
            hasher: Sha256::new(),
        };
        let mut file = BufReader::with_capacity(PIECE, hashed);
        if file.fill_buf()?.starts_with(BYTE_ORDER_MARK) {
            file.consume(BYTE_ORDER_MARK.len());
        }
        // Reads to the end of the file, so the hash below is that of the whole of it.
        let members: Members = serde_json::from_reader(&mut file)?;
        let json = members.write();
        let digest = file.into_inner().hasher.finalize();
        Ok(Outline {
            json: json.into(),
            digest: Hash(digest.into()),
        })
    }

    /// The document in a file that [`Outline::to_be_kept`] was written to, if the whole one has
    /// this hash.
    pub(crate) fn kept(file: &Path, digest: &Hash) -> Option<Bytes> {
        let kept = Bytes::from(std::fs::read(file).ok()?);
        let end = kept.iter().position(|byte| *byte == b'\n')?;
        let json = kept.slice(end + 1..);
        // Both hashes: one tells that the genesis is the same, one that this file is undamaged.
        let is_its = kept[..end] == *Outline::mark(digest, &json).as_bytes();
        is_its.then_some(json)
    }

    /// The outline behind a line with the hash of the whole document, and its own.
    pub(crate) fn to_be_kept(&self) -> Vec<u8> {
        let mark = Outline::mark(&self.digest, &self.json);
        [mark.as_bytes(), b"\n", &self.json].concat()
    }

    fn mark(digest: &Hash, json: &[u8]) -> String {
        format!("{digest} {}", Hash(Sha256::digest(json).into()))
    }
}

/// Hashes all that is read.
struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(into)?;
        self.hasher.update(&into[..n]);
        Ok(n)
    }
}

/// The members of an object as they are written, but `app_state`. Names given twice stay: the last
/// one counts, for the reader to say.
struct Members(Vec<(String, Box<RawValue>)>);

impl Members {
    fn write(&self) -> String {
        let mut json = String::from("{");
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            // Escapes the name as JSON; the values stand as they were written.
            let name = serde_json::Value::from(name.as_str());
            json.push_str(&format!("{comma}{name}:{}", value.get()));
        }
        json.push('}');
        json
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "app_state" {
                        // Passed over as it streams by, which is the point of the outline.
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        members.push((name, map.next_value()?));
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(text: &[u8]) -> io::Result<Outline> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("genesis.json");
        std::fs::write(&file, text).unwrap();
        Outline::read(&file)
    }

    #[test]
    fn everything_but_the_applications_state_stays_as_it_is_written() {
        let text = br#" {"a": 1.50, "app_state": {"a":[1,{"}":"\"]"}]}, "q\"": "x",
            "app_state": null, "a": {"app_state": [ 2 ]}} "#;
        let outline = outline(text).unwrap();
        assert_eq!(
            outline.json,
            r#"{"a":1.50,"q\"":"x","a":{"app_state": [ 2 ]}}"#
        );
        assert_eq!(outline.digest, Hash(Sha256::digest(text).into()));
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_hashed() {
        let text = b"\xef\xbb\xbf{}";
        let outline = outline(text).unwrap();
        assert_eq!(outline.json, "{}");
        assert_eq!(outline.digest, Hash(Sha256::digest(text).into()));
    }

    #[test]
    fn a_state_of_many_pieces_leaves_nothing() {
        let state = "x".repeat(3 * PIECE);
        let text = format!(r#"{{"app_state":"{state}","chain_id":"c"}}"#);
        let outline = outline(text.as_bytes()).unwrap();
        assert_eq!(outline.json, r#"{"chain_id":"c"}"#);
        assert_eq!(outline.digest, Hash(Sha256::digest(&text).into()));
    }

    #[test]
    fn what_is_kept_is_of_one_document_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("outline");
        let outline = outline(br#"{"chain_id":"c","app_state":{}}"#).unwrap();
        assert_eq!(Outline::kept(&file, &outline.digest), None);
        std::fs::write(&file, outline.to_be_kept()).unwrap();
        let kept = Outline::kept(&file, &outline.digest);
        assert_eq!(kept.as_ref(), Some(&outline.json));
        assert_eq!(Outline::kept(&file, &Hash([7; 32])), None);
        let mut cut = outline.to_be_kept();
        cut.pop();
        std::fs::write(&file, cut).unwrap();
        assert_eq!(Outline::kept(&file, &outline.digest), None);
    }

    #[test]
    fn other_files_are_refused() {
        for text in ["", "[]", r#"{"a":1"#, "{} {}", "<html>"] {
            assert!(outline(text.as_bytes()).is_err(), "{text}");
        }
    }
}
