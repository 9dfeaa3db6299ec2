//! Whether a copy that has the certified header, but other bytes, is wrong.

use super::KnownSets;
use crate::chain::block::Fetched;
use crate::chain::commit::BlockIdFlag;
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
    let commit = &copy.block.last_commit;
    let signing = commit.signing(&known.chain_id);
    let sets = || {
        let known = [known.last.as_ref(), Some(&known.next), Some(&known.after)];
        known.into_iter().flatten()
    };
    let rules = known.rules.at(height);
    let mut wrong = None;
    for (index, sig) in commit.signatures.iter().enumerate() {
        let key = sets().find_map(|set| set.by_address(&sig.address).map(|(_, v)| &v.key));
        let Some(key) = key.filter(|_| sig.flag != BlockIdFlag::Absent) else {
            continue;
        };
        let mut message = Vec::new();
        signing.write(sig, &mut message);
        if key.verify_by(rules.ed25519, &message, sig.signature.as_slice()) {
            if !rules.addresses_are_checked {
                return None; // the round is right, and an address may be another's
            }
            continue;
        }
        wrong = Some(Proof(format!(
            "block {height}: last commit, entry {index}: the certified signature of {} does not fit round {}",
            sig.address, commit.round
        )));
        if rules.addresses_are_checked {
            break;
        }
    }
    wrong
}
