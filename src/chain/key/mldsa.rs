//! ML-DSA-65 of FIPS 204: pure, with an empty context (`versions.md` 1.3).

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Bytes in a key.
pub(super) const KEY_LEN: usize = 1952;

/// A key, shared between the sets that it is in, decoded when it first verifies. Any bytes of the
/// length are one.
#[derive(Clone)]
pub struct MlDsaKey(Arc<Inner>);

struct Inner {
    bytes: [u8; KEY_LEN],
    #[cfg(feature = "mldsa")]
    decoded: std::sync::OnceLock<decoded::Decoded>,
}

impl MlDsaKey {
    pub(super) fn new(bytes: &[u8; KEY_LEN]) -> Self {
        MlDsaKey(Arc::new(Inner {
            bytes: *bytes,
            #[cfg(feature = "mldsa")]
            decoded: std::sync::OnceLock::new(),
        }))
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0.bytes
    }

    /// Without the feature there is no such key: decoding refuses it.
    #[cfg(not(feature = "mldsa"))]
    pub(super) fn verify(&self, _msg: &[u8], _sig: &[u8]) -> bool {
        false
    }

    #[cfg(feature = "mldsa")]
    pub(super) fn verify(&self, msg: &[u8], sig: &[u8]) -> bool {
        let Ok(sig) = ml_dsa::Signature::<ml_dsa::MlDsa65>::try_from(sig) else {
            return false;
        };
        if let Some(decoded) = self.0.decoded.get() {
            return decoded.key.verify_with_context(msg, &[], &sig);
        }
        let key = decoded::decode(self.as_bytes());
        let valid = key.verify_with_context(msg, &[], &sig);
        if let Some(kept) = decoded::Decoded::keep(key) {
            let _ = self.0.decoded.set(kept); // another thread may have been first, with the same
        }
        valid
    }
}

#[cfg(feature = "mldsa")]
mod decoded {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use ml_dsa::{MlDsa65, VerifyingKey};

    /// The most keys that are kept decoded. One takes about 45 KB, thirty times its bytes; with
    /// more of them, as in a set of thousands, the others are decoded for each signature.
    const MOST: usize = 1024;
    static KEPT: AtomicUsize = AtomicUsize::new(0);

    pub(super) struct Decoded {
        pub(super) key: Box<VerifyingKey<MlDsa65>>,
    }

    impl Decoded {
        pub(super) fn keep(key: Box<VerifyingKey<MlDsa65>>) -> Option<Self> {
            let more = |kept| (kept < MOST).then_some(kept + 1);
            KEPT.fetch_update(Relaxed, Relaxed, more).ok()?;
            Some(Decoded { key })
        }
    }

    impl Drop for Decoded {
        fn drop(&mut self) {
            KEPT.fetch_sub(1, Relaxed);
        }
    }

    pub(super) fn decode(bytes: &[u8; super::KEY_LEN]) -> Box<VerifyingKey<MlDsa65>> {
        Box::new(VerifyingKey::decode(&(*bytes).into()))
    }
}

impl PartialEq for MlDsaKey {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_bytes() == other.as_bytes()
    }
}

impl Eq for MlDsaKey {}

impl Hash for MlDsaKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for MlDsaKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MlDsaKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}
