//! Every kind of chain passes our own full verification. That CometBFT accepts them too is
//! `interop/cmd/checkchain`'s to show.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use blocksync::chain::key::KeyType;
use blocksync::chain::validate::{LastCommit, validate_block};
use blocksync::chain::verify::{verify_commit, verify_extended_commit};
use blocksync::chain::{BlockIdFlag, RuleSchedule, Rules};

fn small() -> Options {
    Options {
        heights: 40,
        validators: 7,
        spread_power: true,
        txs: 3,
        tx_size: 40,
        vary: true,
        threads: 1,
        ..Options::default()
    }
}

fn full() -> Options {
    Options {
        initial_height: 7,
        absent: 120,
        nil: 120,
        late_rounds: 200,
        churn_every: 2,
        extensions_from: 20,
        big_every: 10,
        ..small()
    }
}

/// Makes the chain and verifies every block and commit of it with the code that a node runs;
/// returns the blocks and the last state.
fn verified(options: Options) -> (Vec<Made>, ChainState) {
    let heights = options.heights;
    let rules = options.rules.clone();
    let mut rng = StdRng::seed_from_u64(5);
    let mut generator = Generator::new(options).unwrap();
    let made = (0..heights).map(|_| {
        let before = generator.state().clone();
        let made = generator.make().unwrap();
        let height = made.block.header.height;
        made.block.check_basic().unwrap();
        made.block.check_links().unwrap();
        let last = LastCommit::Verify(&mut rng);
        validate_block(&before, &made.block, rules.at(height), last, None).unwrap();
        let (chain, set) = (&before.chain_id, &before.validators);
        if made.extensions {
            verify_extended_commit(
                rules.at(height),
                chain,
                set,
                &made.id,
                height,
                &made.commit,
                &mut rng,
            )
            .unwrap();
        } else {
            let commit = made.commit.to_commit();
            verify_commit(
                rules.of_commit(height),
                chain,
                set,
                &made.id,
                height,
                &commit,
                &mut rng,
            )
            .unwrap();
        }
        made
    });
    let made = made.collect();
    (made, generator.state().clone())
}

fn flags(made: &[Made], flag: BlockIdFlag) -> usize {
    let entries = made.iter().flat_map(|m| &m.commit.signatures);
    entries.filter(|entry| entry.sig.flag == flag).count()
}

#[test]
fn a_plain_chain_is_valid() {
    let (made, state) = verified(small());
    assert_eq!(made.len(), 40);
    assert_eq!(state.last_height, Height::new(40));
    assert_eq!(state.version_app, 1);
}

#[test]
fn a_chain_with_everything_is_valid() {
    let (made, state) = verified(full());
    assert_eq!(made[0].block.header.height, Height::new(7));
    assert!(flags(&made, BlockIdFlag::Absent) > 0);
    assert!(flags(&made, BlockIdFlag::Nil) > 0);
    assert!(made.iter().any(|m| m.commit.round > 0));
    assert!(made.iter().any(|m| m.id.parts.total > 1));
    assert!(!made[12].extensions && made[13].extensions);
    let first = made[0].block.header.validators_hash;
    assert_ne!(first, Some(state.validators.hash()));
}

#[test]
fn rules_decide_the_block_time() {
    let (old, _) = verified(full());
    let (new, _) = verified(Options {
        rules: Rules::COMET_040.into(),
        ..full()
    });
    let differs = |(a, b): (&Made, &Made)| a.block.header.time != b.block.header.time;
    assert!(old.iter().zip(&new).any(differs));
    verified(Options {
        rules: RuleSchedule::parse("1:comet-0.38,20:comet-0.40").unwrap(),
        ..full()
    });
}

/// One history under the rules of four versions, each change at a block whose time shows it.
#[test]
fn rules_change_in_the_middle_of_a_chain() {
    let schedule = "1:comet-0.34,15:comet-0.37,18:comet-0.38,30:comet-0.40";
    let rules = RuleSchedule::parse(schedule).unwrap();
    let (made, _) = verified(Options {
        rules: rules.clone(),
        nil: 200,
        ..full()
    });
    // Without the last change, or with one at another height, nothing below that differs, and a
    // block soon after it does: 0.38 and 0.40 weigh nil votes differently, and the seed says where
    // some are.
    for (wrong, from) in [
        ("comet-0.38", 30..36),
        ("1:comet-0.38,24:comet-0.40", 24..30),
    ] {
        let wrong = RuleSchedule::parse(wrong).unwrap();
        let (other, _) = verified(Options {
            rules: wrong,
            nil: 200,
            ..full()
        });
        let differs = |(a, b): &(&Made, &Made)| a.block.header.time != b.block.header.time;
        let (at, _) = made.iter().zip(&other).find(differs).unwrap();
        let at = at.block.header.height.get();
        assert!(from.contains(&at), "{at} of {from:?}");
    }
    assert_eq!(rules.at(Height::new(29)), &Rules::COMET_038);
}

#[test]
fn a_set_turns_over_completely() {
    let (made, _) = verified(Options {
        turnover_every: 10,
        ..small()
    });
    let signers = |m: &Made| {
        let present = m.commit.signatures.iter().map(|entry| entry.sig.address);
        present.collect::<std::collections::BTreeSet<_>>()
    };
    // The block at step 9 names the new set; two heights up it signs.
    assert!(signers(&made[10]).is_disjoint(&signers(&made[11])));
    assert_eq!(signers(&made[0]), signers(&made[10]));
}

#[test]
fn a_noop_chain_has_no_app_hash() {
    let (_, state) = verified(Options {
        app: AppKind::Noop,
        ..small()
    });
    assert!(state.app_hash.is_empty());
    assert_eq!(state.version_app, 0);
}

#[test]
fn one_validator_makes_a_chain() {
    verified(Options {
        validators: 1,
        absent: 500,
        ..small()
    });
}

#[test]
fn the_same_options_give_the_same_bytes_and_another_seed_others() {
    let tip = |seed, threads| {
        let (made, _) = verified(Options {
            seed,
            threads,
            ..full()
        });
        made.last().unwrap().id
    };
    assert_eq!(tip(1, 1), tip(1, 2));
    assert_ne!(tip(1, 1), tip(2, 1));
}

#[test]
fn contradictory_options_are_refused() {
    let refused = |options: Options| Generator::new(options).is_err();
    assert!(refused(Options {
        chain_id: String::new(),
        ..small()
    }));
    assert!(refused(Options {
        validators: 0,
        ..small()
    }));
    assert!(refused(Options { keys: 3, ..small() }));
    assert!(refused(Options {
        initial_height: 0,
        ..small()
    }));
    assert!(refused(Options {
        turnover_every: 5,
        churn_every: 2,
        ..small()
    }));
    let noop = AppKind::Noop;
    assert!(refused(Options {
        app: noop,
        churn_every: 2,
        ..small()
    }));
}

#[test]
fn the_files_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let options = full();
    let mut done = 0;
    let summary = write(&options, dir.path(), |n| done = n).unwrap();
    assert_eq!((done, summary.last), (40, Height::new(46)));
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let genesis = Genesis::parse(&read("genesis.json")).unwrap();
    assert_eq!(&genesis, Generator::new(options.clone()).unwrap().genesis());
    let expected = String::from_utf8(read("expected.jsonl")).unwrap();
    assert_eq!(expected.lines().count(), 40);
    // The framing is a varint length before each response, whose first field is the block.
    let (made, _) = verified(options);
    let blocks = read("blocks.bin");
    let mut rest = blocks.as_slice();
    for m in &made {
        let length = prost::decode_length_delimiter(&mut rest).unwrap();
        let (response, after) = rest.split_at(length);
        let mut block = &response[1..];
        assert_eq!(response[0], 0x0a);
        assert_eq!(
            prost::decode_length_delimiter(&mut block).unwrap(),
            m.raw.len()
        );
        assert_eq!(block[..m.raw.len()], m.raw[..]);
        assert_eq!(block.len() > m.raw.len(), m.extensions);
        rest = after;
    }
    assert!(rest.is_empty());
    let mut tip = Vec::new();
    made.last().unwrap().commit.to_commit().encode(&mut tip);
    assert_eq!(read("tip_commit.bin"), tip);
}

#[test]
fn chains_of_every_key_type_are_valid() {
    for kind in KeyType::ALL {
        if kind.missing_feature().is_some() {
            continue;
        }
        let rules = match kind {
            KeyType::Bls12381 => Rules::COMET_100,
            _ => Rules::COMET_040,
        };
        let (made, last) = verified(Options {
            heights: 4,
            key_type: kind,
            rules: rules.into(),
            ..small()
        });
        assert_eq!(last.last_height, Height::new(4), "{kind:?}");
        let signature = &made[3].commit.signatures[0].sig.signature;
        assert_eq!(signature.len(), kind.signature_len(), "{kind:?}");
        assert_eq!(last.params.pub_key_types, [kind.name()]);
    }
    let without = Options {
        key_type: KeyType::MlDsa65,
        rules: Rules::COMET_100.into(),
        ..small()
    };
    let refused = Generator::new(without).err().unwrap().to_string();
    assert_eq!(refused, "--key-type: name --rules that have it");
}

/// The history that `interop/apps.sh` syncs: the application is counted on to answer all versions
/// alike.
#[test]
fn a_chain_of_four_rules_is_valid() {
    let list = "1:comet-0.34,6:comet-0.37,11:comet-0.38,16:comet-0.40";
    let (made, last) = verified(Options {
        heights: 20,
        absent: 50,
        nil: 120,
        app: AppKind::Kvstore034,
        rules: RuleSchedule::parse(list).unwrap(),
        ..small()
    });
    assert_eq!(last.last_height, Height::new(20));
    assert!(made[0].block.header.app_hash.is_empty());
    assert!(flags(&made, BlockIdFlag::Nil) > 0);
}
