//! The node key: who we are to other nodes (`protocol.md` 1.3).

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::PeerId;
use crate::wire::Signer;

const KEY_TYPE: &str = "tendermint/PrivKeyEd25519";

/// A node's persistent ed25519 key. Its public half, hashed, is the node's id.
#[derive(Clone)]
pub struct NodeKey {
    signing: SigningKey,
    id: PeerId,
}

/// Why a node key could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("node key {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not what CometBFT writes.
    #[error("node key {}: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The error in it.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    priv_key: TypedKey,
}

#[derive(Serialize, Deserialize)]
struct TypedKey {
    #[serde(rename = "type")]
    kind: String,
    value: String,
}

impl NodeKey {
    /// A fresh key.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_seed(rand::random())
    }

    /// The key of this ed25519 seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(&seed);
        let id = id_of(signing.verifying_key().as_bytes());
        NodeKey { signing, id }
    }

    /// The node's id: the first 20 bytes of the SHA-256 of the public key.
    #[must_use]
    pub fn id(&self) -> PeerId {
        self.id
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// The key, to sign advertisements with.
    #[must_use]
    pub fn signer(&self) -> Signer {
        Signer::from_seed(self.signing.to_bytes())
    }

    pub(super) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }

    /// Reads CometBFT's `node_key.json`.
    ///
    /// # Errors
    /// The error names the mistake in the text.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let file: KeyFile = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if file.priv_key.kind != KEY_TYPE {
            return Err(format!(
                "key type {:?} where {KEY_TYPE:?} is needed",
                file.priv_key.kind
            ));
        }
        let bytes = BASE64
            .decode(&file.priv_key.value)
            .map_err(|e| format!("value is not base64: {e}"))?;
        let pair: [u8; 64] = bytes
            .try_into()
            .map_err(|b: Vec<u8>| format!("value has {} bytes where 64 are needed", b.len()))?;
        // The file has both halves. With a public one that does not belong to the seed the id would
        // be one that no signature of ours proves.
        SigningKey::from_keypair_bytes(&pair)
            .map_err(|_| "the public half does not belong to the private one".to_owned())?;
        let mut seed = [0; 32];
        seed.copy_from_slice(&pair[..32]);
        Ok(Self::from_seed(seed))
    }

    /// Writes the key as CometBFT does: one line, no newline at the end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let value = BASE64.encode(self.signing.to_keypair_bytes());
        format!(r#"{{"priv_key":{{"type":"{KEY_TYPE}","value":"{value}"}}}}"#)
    }

    /// Reads the key in `path`.
    ///
    /// # Errors
    /// When the file is not there, or is no node key.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let text = fs::read_to_string(path).map_err(|e| io_error(path, e))?;
        Self::from_json(&text).map_err(|why| KeyError::Format {
            path: path.to_owned(),
            why,
        })
    }

    /// Reads the key in `path`, or makes one there that only its owner can read. Two processes that
    /// start at once agree on one key: it is written elsewhere, made durable and then linked into
    /// its place, where the first one stays.
    ///
    /// # Errors
    /// When the file can be neither read nor written, or is no node key. A file that is no key is
    /// never overwritten.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match Self::load(path) {
            Err(KeyError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            other => return other,
        }
        let temporary = path.with_extension(format!("tmp{:08x}", rand::random::<u32>()));
        let made = write_private(&temporary, Self::generate().to_json().as_bytes())
            .and_then(|()| fs::hard_link(&temporary, path));
        let _ = fs::remove_file(&temporary); // only a name for what is now at `path`, or a failed attempt
        match made {
            // Another process may have been faster: then its key counts, and ours is forgotten.
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(io_error(path, e)),
            _ => Self::load(path),
        }
    }
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the secret half: this may end up in a log.
        write!(f, "NodeKey({})", self.id)
    }
}

/// The id of the node with this ed25519 public key.
#[must_use]
pub(crate) fn id_of(public: &[u8; 32]) -> PeerId {
    let digest = Sha256::digest(public);
    let mut id = [0; 20];
    id.copy_from_slice(&digest[..20]);
    PeerId(id)
}

fn io_error(path: &Path, source: std::io::Error) -> KeyError {
    KeyError::Io {
        path: path.to_owned(),
        source,
    }
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    // Always a new file: the mode below would not change that of an old one.
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::vectors;

    #[test]
    fn reads_and_writes_what_comet_does() {
        let mut seen = 0;
        for case in vectors::group("keys") {
            let Some(json) = case["node_key_json"].as_str() else {
                continue;
            };
            let key = NodeKey::from_json(json).unwrap();
            assert_eq!(key.id().to_string(), case["node_id"].as_str().unwrap());
            assert_eq!(
                key.public().to_vec(),
                vectors::hex_field(&case, "pub_key"),
                "public key"
            );
            assert_eq!(key.to_json(), json);
            seen += 1;
        }
        assert_eq!(seen, 3);
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node_key.json");
        let made = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(NodeKey::load_or_create(&path).unwrap().id(), made.id());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_no_key_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node_key.json");
        let other = NodeKey::from_seed([1; 32]).to_json();
        let swapped = other.replace(KEY_TYPE, "tendermint/PrivKeySecp256k1");
        for text in [
            "",
            "{}",
            &swapped,
            r#"{"priv_key":{"type":"tendermint/PrivKeyEd25519","value":"AAAA"}}"#,
        ] {
            fs::write(&path, text).unwrap();
            let error = NodeKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyError::Format { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
