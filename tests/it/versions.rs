//! Chains that CometBFT of other versions has made, by the rules of their version and by wrong
//! ones.

use std::time::Duration;

use blocksync::app::{App, KvStore};
use blocksync::chain::proof::Policy;
use blocksync::chain::rules::ExtendedCommits;
use blocksync::chain::{RuleSchedule, Rules};
use blocksync::ids::Height;
use blocksync::pool::Outcome;
use blocksync::service::Status;
use blocksync_testkit::app::{ParamsKvStore, PersistentKvStore};
use blocksync_testkit::peers::{Behaviour, scripted};
use blocksync_testkit::recorded::{Recorded, config, fresh_with};

use super::golden::{execute, matches_the_record_with};

/// Virtual time within which a chain must be synced.
const GUARD: Duration = Duration::from_secs(600);

#[tokio::test]
async fn every_block_of_034_and_037_is_the_recorded_one() {
    matches_the_record_with::<PersistentKvStore>("v034", Rules::COMET_034).await;
    matches_the_record_with::<PersistentKvStore>("v037", Rules::COMET_037).await;
}

#[tokio::test]
async fn every_block_of_1_0_is_the_recorded_one() {
    matches_the_record_with::<ParamsKvStore>("v100", Rules::COMET_100).await;
    matches_the_record_with::<ParamsKvStore>("p100", Rules::COMET_100).await;
    // It has nothing in which 0.38 differs.
    matches_the_record_with::<KvStore>("p100", Rules::COMET_038).await;
}

#[cfg(feature = "bls")]
#[tokio::test]
async fn every_block_of_bls_validators_is_the_recorded_one() {
    matches_the_record_with::<ParamsKvStore>("v100bls", Rules::COMET_100).await;
    matches_the_record_with::<ParamsKvStore>("bera", Rules::BERA_100).await;
}

/// Votes of the fork and of 1.0 differ in all: the first commit tells.
#[cfg(feature = "bls")]
#[tokio::test]
async fn aggregated_commits_and_others_are_told_apart() {
    for (name, rules, says) in [
        ("bera", Rules::COMET_100, "part of an aggregated signature"),
        ("v100bls", Rules::BERA_100, "the vote has a time"),
    ] {
        let (last, refused) = executed(name, &rules).await;
        let refused = refused.unwrap_or_default();
        assert_eq!(last, Height::new(1), "{name} by {rules}: {refused}");
        let named = format!("by the rules of {rules}");
        assert!(refused.contains(&named), "{name} by {rules}: {refused}");
        assert!(refused.contains(says), "{name} by {rules}: {refused}");
    }
}

#[tokio::test]
async fn every_block_of_other_keys_is_the_recorded_one() {
    for name in ["eth", "mldsa", "mixed"] {
        matches_the_record_with::<ParamsKvStore>(name, Rules::COMET_040).await;
    }
}

/// CometBFT 1.0 does not verify vote extensions while it syncs; by `comet-1.0` we do.
#[tokio::test]
async fn wrong_extensions_are_refused_unless_told_otherwise() {
    let unverified = Rules::COMET_100_UNVERIFIED;
    matches_the_record_with::<ParamsKvStore>("x-v100", unverified).await;
    let (rules, schedule) = (Rules::COMET_100, RuleSchedule::from(Rules::COMET_100));
    let chain = Recorded::load_by("x-v100", &schedule);
    let (state, refused) = execute::<ParamsKvStore>(&chain, &rules, false).await;
    assert_eq!(state.last_height, Height::new(7));
    let refused = refused.unwrap();
    assert!(refused.contains("extended commit for 8"), "{refused}");
}

/// The application of a chain, by its name.
async fn executed(name: &'static str, rules: &Rules) -> (Height, Option<String>) {
    let chain = Recorded::load_by(name, &(*rules).into());
    let (state, refused) = match name {
        "v034" | "v037" => execute::<PersistentKvStore>(&chain, rules, false).await,
        _ => execute::<ParamsKvStore>(&chain, rules, false).await,
    };
    (state.last_height, refused)
}

/// Wrong rules, the first height that they refuse, and what the refusal says.
const WRONG: [(&str, Rules, u64, &str); 8] = [
    ("v034", Rules::COMET_040, 2, "votes for nil do not count"),
    (
        "v034",
        Rules::COMET_100,
        90,
        "validators written with a PublicKey",
    ),
    (
        "v037",
        Rules::COMET_038,
        90,
        "6 validators to blame, expected 5",
    ),
    ("v037", Rules::COMET_040, 78, "votes for nil do not count"),
    (
        "v037",
        Rules::COMET_100,
        90,
        "validators written with a PublicKey",
    ),
    (
        "v100",
        Rules::COMET_038,
        65,
        "the median of its last commit",
    ),
    ("v100", Rules::COMET_040, 2, "votes for nil do not count"),
    ("p100", Rules::COMET_040, 28, "votes for nil do not count"),
];

#[tokio::test]
async fn wrong_rules_stop_at_the_block_that_breaks_them() {
    for (name, rules, height, says) in WRONG {
        let (last, refused) = executed(name, &rules).await;
        let refused = refused.unwrap_or_default();
        assert_eq!(
            last.next(),
            Height::new(height),
            "{name} by {rules}: {refused}"
        );
        let named = format!("by the rules of {rules}");
        assert!(refused.contains(&named), "{name} by {rules}: {refused}");
        assert!(refused.contains(says), "{name} by {rules}: {refused}");
    }
    // Nothing in this chain tells these apart.
    for rules in [Rules::COMET_037, Rules::COMET_038] {
        assert_eq!(executed("v034", &rules).await.1, None, "{rules}");
    }
}

/// Syncs a chain through the whole service, to the block below its tip.
async fn synced<A: App + Default>(name: &'static str, rules: Rules, policy: Policy) -> Status {
    let chain = Recorded::load_by(name, &rules.into());
    let mut config = config(21);
    config.policy = policy;
    config.rules = rules.into();
    let (handle, _store) = fresh_with(&chain, A::default(), config).await;
    for n in 1..=3 {
        let peer = scripted(&chain, n, Behaviour::Honest, Duration::from_millis(20));
        handle.add_peer(peer).await.unwrap();
    }
    let wanted = chain.tip().prev();
    let done = handle.outcome(|o| matches!(o, Outcome::CaughtUp { height } if *height >= wanted));
    let Ok(status) = tokio::time::timeout(GUARD, done).await else {
        panic!("{name}: not caught up: {:#?}", handle.status().borrow());
    };
    let status = status.unwrap();
    handle.stop().await;
    assert_eq!(status.applied, wanted, "{name}");
    assert_eq!(
        hex::encode(&status.app_hash),
        chain.app_hash_after(wanted),
        "{name}"
    );
    assert_eq!(status.dropped.len(), 0, "{name}: {:?}", status.dropped);
    status
}

#[tokio::test(start_paused = true)]
async fn chains_of_every_version_are_synced_by_both_policies() {
    for policy in [Policy::Anchored, Policy::EveryCommit] {
        synced::<PersistentKvStore>("v034", Rules::COMET_034, policy).await;
        synced::<PersistentKvStore>("v037", Rules::COMET_037, policy).await;
        synced::<ParamsKvStore>("v100", Rules::COMET_100, policy).await;
        synced::<ParamsKvStore>("x-v100", Rules::COMET_100_UNVERIFIED, policy).await;
        synced::<ParamsKvStore>("mixed", Rules::COMET_040, policy).await;
        #[cfg(feature = "bls")]
        synced::<ParamsKvStore>("v100bls", Rules::COMET_100, policy).await;
        #[cfg(feature = "bls")]
        synced::<ParamsKvStore>("bera", Rules::BERA_100, policy).await;
    }
}

/// A wrong extended commit of a 1.0 peer costs it the connection for a while, and no ban: it may
/// never have checked it.
#[tokio::test(start_paused = true)]
async fn peers_of_1_0_are_not_banned_for_extensions_that_they_do_not_check() {
    assert_eq!(
        Rules::COMET_100.extended_commits,
        ExtendedCommits::VerifiedByUs
    );
    let rules = RuleSchedule::from(Rules::COMET_100);
    let chain = Recorded::load_by("x-v100", &rules);
    let mut config = config(22);
    config.rules = rules;
    let (handle, _store) = fresh_with(&chain, ParamsKvStore::default(), config).await;
    let peer = scripted(&chain, 1, Behaviour::Honest, Duration::from_millis(20));
    handle.add_peer(peer).await.unwrap();
    let mut status = handle.status();
    let dropped = status.wait_for(|status| !status.dropped.is_empty());
    let dropped = tokio::time::timeout(GUARD, dropped).await.unwrap().unwrap();
    let reason = &dropped.dropped[0].reason;
    assert_eq!(reason.name(), "unchecked_extended_commit");
    assert_eq!(dropped.applied, Height::new(7));
    let text = reason.to_string();
    assert!(
        text.contains("height 8, by the rules of comet-1.0"),
        "{text}"
    );
    assert_eq!(
        reason.fault().unwrap().penalty(),
        blocksync::fault::Penalty::BackOff
    );
    drop(dropped);
    handle.stop().await;
}
