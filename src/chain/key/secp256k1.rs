//! secp256k1 as Cosmos has it, and as Ethereum has it (`versions.md` 1.2, 1.6).

use k256::ecdsa::signature::hazmat::PrehashVerifier;
use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use k256::elliptic_curve::ops::Reduce;
use sha2::{Digest, Sha256};
use sha3::Keccak256;

/// Compressed points only: SEC 1 libraries also know other tags of this length.
fn point(key: &[u8; 33]) -> Option<VerifyingKey> {
    let compressed = matches!(key[0], 2 | 3);
    VerifyingKey::from_sec1_bytes(key)
        .ok()
        .filter(|_| compressed)
}

/// Whether the bytes are a point, which Ethereum's form must be when it is decoded.
pub(super) fn is_point(key: &[u8; 33]) -> bool {
    point(key).is_some()
}

pub(super) fn verify(key: &[u8; 33], msg: &[u8], sig: &[u8]) -> Option<()> {
    let (r, s) = sig.split_first_chunk::<32>()?;
    let s: &[u8; 32] = s.try_into().ok()?;
    let key = point(key)?;
    // Go reduces both numbers modulo the order instead of refusing larger ones.
    let number = |half: &[u8; 32]| k256::Scalar::reduce(&k256::FieldBytes::from(*half));
    let sig = Signature::from_scalars(number(r).to_bytes(), number(s).to_bytes()).ok()?;
    if sig.normalize_s() != sig {
        return None; // S above half the order: another signature for the same message
    }
    key.verify_prehash(&Sha256::digest(msg), &sig).ok()
}

/// The key that is recovered from the signature must be this one, so that V, the last byte, is part
/// of what is checked.
pub(super) fn verify_eth(key: &[u8; 33], msg: &[u8], sig: &[u8]) -> Option<()> {
    let (&v, numbers) = sig.split_last()?;
    // 2 and 3 would mean an R above the order, 27 and 28 are Ethereum's; CometBFT refuses them all.
    if v > 1 {
        return None;
    }
    let sig = Signature::from_slice(numbers).ok()?; // neither number zero, nor reduced
    if sig.normalize_s() != sig {
        return None;
    }
    let hash = Keccak256::digest(msg);
    let recovered =
        VerifyingKey::recover_from_prehash(&hash, &sig, RecoveryId::from_byte(v)?).ok()?;
    (recovered.to_sec1_point(true).as_bytes() == key).then_some(())
}

/// The last 20 bytes of the hash of both coordinates; `None` for what is no point.
pub(super) fn eth_address(key: &[u8; 33]) -> Option<[u8; 20]> {
    let point = point(key)?.to_sec1_point(false);
    let hash: [u8; 32] = Keccak256::digest(&point.as_bytes()[1..]).into();
    hash.last_chunk().copied()
}
