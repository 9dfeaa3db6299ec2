//! The values of flags, as text and as what they mean.

use std::str::FromStr;
use std::time::Duration;

use blocksync::app::{AnyApp, Connections, UnknownApp};
use blocksync::ids::{Hash, Height, PeerId};
use blocksync::p2p::addr::entries;
use blocksync::service::SHORTEST_ADVERTISE_TIME;

/// The values of a flag that takes a list: commas, white space or both between them, and empty
/// entries skipped, as networks publish their peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct List<T>(Vec<T>);

impl<T> FromStr for List<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let values = entries(text).map(|entry| entry.parse().map_err(|e: T::Err| e.to_string()));
        values.collect::<Result<_, _>>().map(List)
    }
}

/// The values of a flag that may be repeated.
pub(crate) fn all<T: Clone>(lists: &[List<T>]) -> Vec<T> {
    lists.iter().flat_map(|list| list.0.clone()).collect()
}

/// The id of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId(pub(crate) PeerId);

impl FromStr for NodeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        PeerId::from_hex(text)
            .map(NodeId)
            .ok_or_else(|| format!("{text:?} is no node id: 40 hex digits are needed"))
    }
}

/// Number of connections to an application.
pub(crate) fn connections(text: &str) -> Result<Connections, String> {
    match text {
        "1" => Ok(Connections::One),
        "4" => Ok(Connections::Four),
        _ => Err("1 or 4".to_owned()),
    }
}

/// The name of an application that is there; it is made when it is needed.
pub(crate) fn app(text: &str) -> Result<String, UnknownApp> {
    text.parse::<AnyApp>().map(|_| text.to_owned())
}

/// A height.
pub(crate) fn height(text: &str) -> Result<Height, String> {
    match text.parse::<u64>() {
        Ok(h) if h >= 1 && h <= Height::MAX.get() => Ok(Height::new(h)),
        _ => Err(format!(
            "{text:?} is no height: a whole number from 1 to {} is needed",
            Height::MAX
        )),
    }
}

/// A height and the hash of its block.
pub(crate) fn trust(text: &str) -> Result<(Height, Hash), String> {
    let (at, hash) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?}: HEIGHT:HASH is needed"))?;
    let hash = Hash::from_hex(hash)
        .ok_or_else(|| format!("{hash:?} is no block hash: 64 hex digits are needed"))?;
    Ok((height(at)?, hash))
}

/// A number of bytes, with a unit or without.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 14] = [
        ("", 1),
        ("b", 1),
        ("k", 1 << 10),
        ("m", 1 << 20),
        ("g", 1 << 30),
        ("t", 1 << 40),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
    ];
    // `256M` and `256MiB` are powers of two, `256MB` of ten, as in most tools.
    let lower = text.trim().to_ascii_lowercase();
    let (number, unit) = split_unit(&lower);
    let factor = UNITS.iter().find(|(name, _)| *name == unit);
    factor
        .and_then(|(_, factor)| scaled(number, *factor))
        .ok_or_else(|| format!("{text:?} is no size; use for example 256MiB, 1.5GB or 5000000"))
}

/// A time: a number of seconds, or numbers with units such as `500ms`, `1.5h` or `1h30m`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    const MILLISECONDS: [(&str, u64); 6] = [
        ("", 1000),
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    let lower: String = text.to_ascii_lowercase().split_whitespace().collect();
    let parse = || {
        let (mut rest, mut sum) = (lower.as_str(), 0u64);
        loop {
            let (number, tail) = split_unit(rest);
            // The unit ends where the next number begins: `1h30m`.
            let length = tail
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(tail.len());
            let (unit, next) = tail.split_at(length);
            let factor = MILLISECONDS.iter().find(|(name, _)| *name == unit)?.1;
            sum = sum.checked_add(scaled(number, factor)?)?;
            if next.is_empty() {
                // Some 136 years: sums with it stay far from overflowing a clock.
                return (sum <= 1000 << 32).then(|| Duration::from_millis(sum));
            }
            rest = next;
        }
    };
    parse().ok_or_else(|| format!("{text:?} is no time; use for example 30s, 5m or 1h30m"))
}

/// The number at the beginning, and what comes behind it.
fn split_unit(text: &str) -> (&str, &str) {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let end = text.find(|c| !is_number(c)).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

/// A decimal number, with a fraction or without, times a factor; rounded down.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.is_empty() || fraction.len() > 12 {
        return None;
    }
    let digits = |text: &str| text.parse::<u64>().ok();
    let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(digits(fraction)?) * u128::from(factor) / scale;
    let sum = u128::from(digits(whole)?) * u128::from(factor) + part;
    u64::try_from(sum).ok()
}

/// A time between two statuses: `time`, and not so short that others take it for a flood.
pub(crate) fn advertise_time(text: &str) -> Result<Duration, String> {
    let (given, shortest) = (time(text)?, SHORTEST_ADVERTISE_TIME);
    if given < shortest {
        return Err(format!(
            "at least {shortest:?}: other nodes take more statuses for a flood"
        ));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use blocksync::p2p::PeerAddr;

    use super::*;

    #[test]
    fn sizes_have_units_and_fractions() {
        for (text, bytes) in [
            ("12", 12),
            ("256MiB", 256 << 20),
            ("1 gb", 1_000_000_000),
            ("1.5GiB", 3 << 29),
            ("0.5k", 512),
            ("2TB", 2_000_000_000_000),
            (" 7b ", 7),
            ("0.000000000001TB", 1),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "lots",
            "GiB",
            "1.GiB",
            ".5",
            "1.2.3",
            "-1",
            "99999999999GiB",
            "1 parsec",
            "1e3",
            "0.0000000000010TB",
        ] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn statuses_are_not_to_be_pushed_as_a_flood() {
        assert_eq!(advertise_time("250ms"), Ok(SHORTEST_ADVERTISE_TIME));
        let refused = advertise_time("249ms").unwrap_err();
        assert!(refused.contains("at least 250ms"), "{refused}");
        assert!(advertise_time("soon").is_err());
    }

    #[test]
    fn times_have_units_and_may_be_sums() {
        let millis = Duration::from_millis;
        for (text, expected) in [
            ("30", millis(30_000)),
            ("30s", millis(30_000)),
            ("5m", millis(300_000)),
            ("1h", millis(3_600_000)),
            ("1h30m", millis(5_400_000)),
            ("1.5h", millis(5_400_000)),
            ("1h 30m", millis(5_400_000)),
            ("2d", millis(172_800_000)),
            ("500ms", millis(500)),
            ("0", millis(0)),
        ] {
            assert_eq!(time(text), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "soon",
            "h",
            "1x",
            "1h30x",
            "-5s",
            "99999999999d",
            "1..5s",
        ] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lists_take_what_networks_publish() {
        let published = "plain://a:1,\n plain://b:2 plain://c:3,,\n";
        let list: List<PeerAddr> = published.parse().unwrap();
        assert_eq!(all(&[list.clone(), list]).len(), 6);
        assert!("plain://a:1,nonsense".parse::<List<PeerAddr>>().is_err());
        assert!(
            "7b9c"
                .parse::<List<NodeId>>()
                .unwrap_err()
                .contains("40 hex digits")
        );
    }
}
