//! Ed25519 by the two rules that networks have had.

/// Which signatures of ed25519 keys are good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ed25519Rule {
    /// ZIP-215, since 0.38: the equation is multiplied by the cofactor, and any encoding of a point
    /// is taken.
    #[default]
    Zip215,
    /// Go's `crypto/ed25519`, up to 0.37: no cofactor, and R compared as bytes with the recomputed
    /// point (`versions.md` 1.6).
    Cofactorless,
}

pub(super) fn verify(rule: Ed25519Rule, key: &[u8; 32], msg: &[u8], sig: &[u8]) -> bool {
    match rule {
        Ed25519Rule::Zip215 => zip215(key, msg, sig),
        Ed25519Rule::Cofactorless => cofactorless(key, msg, sig),
    }
}

fn zip215(key: &[u8; 32], msg: &[u8], sig: &[u8]) -> bool {
    // The only failure here is another length, which `verify_by` has refused already.
    let Ok(sig) = ed25519_zebra::Signature::try_from(sig) else {
        return false;
    };
    ed25519_zebra::VerificationKey::try_from(*key).is_ok_and(|key| key.verify(&sig, msg).is_ok())
}

fn cofactorless(key: &[u8; 32], msg: &[u8], sig: &[u8]) -> bool {
    use ed25519_dalek::Verifier;
    let Ok(sig) = ed25519_dalek::Signature::from_slice(sig) else {
        return false;
    };
    ed25519_dalek::VerifyingKey::from_bytes(key).is_ok_and(|key| key.verify(msg, &sig).is_ok())
}
