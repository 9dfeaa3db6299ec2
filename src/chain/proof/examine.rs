//! Whether a copy that has the certified header, but other bytes, is wrong.

use super::KnownSets;
use crate::chain::aggregate;
use crate::chain::block::Fetched;
use crate::chain::commit::{BlockIdFlag, Commit, CommitSig};
use crate::chain::key::PublicKey;
use crate::chain::rules::Rules;
use crate::fault::Proof;
use crate::ids::BlockId;

/// Looks for proof against a copy of a height for which `certified` is proven (`design.md` 5).
///
/// With the certified header, the copy's content can differ only in what the header's hashes bind,
/// transactions, evidence and the entries of the last commit, or in the last commit's height, round
/// and block id, which no hash covers. Height and block id must be those of the certified header;
/// the round is the one that the commit's signatures were made for. When all that is right the copy
/// has the very content that was certified, and only the encoding differs: then the network has
/// committed one that is not canonical, and the supplier, who cannot know it, is not to blame.
///
/// A server has either the certified bytes or its own encoding of their content, which is
/// canonical. A copy that is neither is nobody's honest answer. That costs no signature check, so
/// it is seen first.
///
/// Signatures are checked of entries whose address is in a known set, of whatever height: an
/// address fixes the key. When there is none the round is taken as it stands. By rules that let an
/// entry name another's address, one good signature clears the copy.
#[must_use]
pub fn examine(copy: &Fetched, certified: BlockId, known: &KnownSets) -> Option<Proof> {
    if copy.id == certified {
        return None;
    }
    let height = copy.height();
    if copy.id.hash != certified.hash {
        return Some(Proof(format!(
            "block {height} is {}, but {certified} is proven",
            copy.id
        )));
    }
    if !copy.canonical {
        return Some(Proof(format!(
            "block {height} came as {} in an encoding that is not canonical, and {certified} is proven",
            copy.id
        )));
    }
    let content = copy
        .block
        .check_body()
        .and_then(|()| copy.block.check_links());
    if let Err(error) = content {
        return Some(Proof(error.to_string()));
    }
    let rules = known.rules.at(height);
    let wrong = fitting_round(&copy.block.last_commit, known, rules).err()?;
    Some(Proof(format!("block {height}: last commit, {wrong}")))
}

/// Whether the signatures of a certified commit fit the round that it states; the first that does
/// not, in words. Right where none can be checked.
fn fitting_round(commit: &Commit, known: &KnownSets, rules: &Rules) -> Result<(), String> {
    let signing = commit.signing(&known.chain_id, rules.votes);
    let sets = || {
        // Three sets are all that we have; a commit far back may have no signer among them.
        let known = [known.last.as_ref(), Some(&known.next), Some(&known.after)];
        known.into_iter().flatten()
    };
    let key_of = |index: usize| {
        let address = &commit.signatures[index].address;
        sets().find_map(|set| set.by_address(address).map(|(_, v)| &v.key))
    };
    let fits = |key: &PublicKey, sig: &CommitSig| {
        let mut message = Vec::new();
        signing.write(sig, &mut message);
        key.verify_by(rules.ed25519, &message, sig.signature.as_slice())
    };
    let mut wrong = Ok(());
    if commit.is_aggregated() {
        for aggregate in aggregate::all(commit) {
            let Some(key) = aggregate.sum(key_of) else {
                continue;
            };
            // No signature covers the addresses: one that fits clears the copy.
            if fits(&key, aggregate.entry(commit)) {
                return Ok(());
            }
            wrong = Err(format!(
                "the certified aggregated signature does not fit round {}",
                commit.round
            ));
        }
        return wrong;
    }
    for (index, sig) in commit.signatures.iter().enumerate() {
        let Some(key) = key_of(index).filter(|_| sig.flag != BlockIdFlag::Absent) else {
            continue;
        };
        if fits(key, sig) {
            if !rules.addresses_are_checked {
                return Ok(()); // the round is right, and an address may be another's
            }
            continue;
        }
        wrong = Err(format!(
            "entry {index}: the certified signature of {} does not fit round {}",
            sig.address, commit.round
        ));
        if rules.addresses_are_checked {
            // Elsewhere a later entry may still clear the copy.
            break;
        }
    }
    wrong
}
