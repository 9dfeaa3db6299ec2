//! A batch's verdict on any mix of good and bad signatures is that of checking them singly.

use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::commit::Signature;
use super::key::PublicKey;
use super::signatures::{Inline, SignatureBatch, SignatureCheck};

/// How a signature is spoilt.
#[derive(Clone, Copy, Debug)]
enum Spoilt {
    Not,
    OtherMessage,
    OtherKey,
    Short,
    Garbage,
}

fn item(batch: &mut SignatureBatch, number: usize, keys: u8, spoilt: Spoilt) {
    let key =
        |n: usize| SigningKey::from_bytes(&[u8::try_from(n % usize::from(keys)).unwrap() + 1; 32]);
    let signer = key(number);
    let message = format!("message {number}");
    let signed = if matches!(spoilt, Spoilt::OtherMessage) {
        "other"
    } else {
        &message
    };
    let mut signature = signer.sign(signed.as_bytes()).to_bytes().to_vec();
    match spoilt {
        Spoilt::Short => signature.truncate(63),
        Spoilt::Garbage => signature.fill(0xff),
        _ => {}
    }
    let public = match spoilt {
        Spoilt::OtherKey => SigningKey::from_bytes(&[200; 32]).verifying_key(),
        _ => signer.verifying_key(),
    };
    let public = PublicKey::Ed25519(public.to_bytes());
    batch.push(public, Signature::new(&signature).unwrap(), number, |out| {
        out.extend_from_slice(message.as_bytes());
    });
}

fn spoilt() -> impl Strategy<Value = Spoilt> {
    prop_oneof![
        30 => Just(Spoilt::Not),
        1 => Just(Spoilt::OtherMessage),
        1 => Just(Spoilt::OtherKey),
        1 => Just(Spoilt::Short),
        1 => Just(Spoilt::Garbage),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn names_exactly_the_bad_ones(
        items in prop::collection::vec(spoilt(), 0..80),
        keys in 1_u8..40,
        parts in 1_usize..9,
        seed in any::<u64>(),
    ) {
        let mut batch = SignatureBatch::new();
        for (number, spoilt) in items.iter().enumerate() {
            item(&mut batch, number, keys, *spoilt);
        }
        let bad: Vec<usize> = (0..items.len())
            .filter(|n| !matches!(items[*n], Spoilt::Not))
            .collect();
        let mut rng = StdRng::seed_from_u64(seed);
        prop_assert_eq!(batch.verify(&mut rng).err().unwrap_or_default(), bad.clone());
        let ranges = batch.split(parts);
        prop_assert!(ranges.len() <= parts && ranges.iter().all(|r| !r.is_empty()));
        let found: Vec<usize> = ranges
            .into_iter()
            .flat_map(|range| batch.verify_range(range, &mut rng))
            .collect();
        prop_assert_eq!(&found, &bad);
        prop_assert_eq!(Inline::new([1; 32]).check(&batch), bad);
    }
}

#[test]
fn nothing_but_bad_ones_are_all_named() {
    let mut batch = SignatureBatch::new();
    for number in 0..100 {
        item(&mut batch, number, 5, Spoilt::OtherMessage);
    }
    let mut rng = StdRng::seed_from_u64(1);
    assert_eq!(batch.verify(&mut rng), Err((0..100).collect()));
    assert_eq!(batch.index(99), 99);
}
