//! `genesis.json`, read exactly as CometBFT reads it (`protocol.md` 6.1).
//!
//! CometBFT decodes with rules of its own: 64-bit integers stand in strings, whose content is JSON
//! again; a missing key and a null are the zero value; key names are compared with case, and of a
//! name given twice the last one counts. So values are kept as raw text first and each is read by
//! its type's rule.
//!
//! The Cosmos SDK has, from 0.50 on, a form of its own: a group `consensus` with `validators` and
//! `params`, a height that is a number, an app hash in base64, a time in any zone. A document with
//! that group is read by these rules.

use std::str::FromStr;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::key::{KeyError, KeyType, PublicKey};
use super::params::{ConsensusParams, ParamsError, check_key_type};
use super::rules::{ParamsForm, ParamsGroups, RuleSchedule, Rules};
use super::time::Time;
use super::validators::Validator;
use crate::ids::Height;

mod fitting;

/// The longest chain id, in bytes.
pub const MAX_CHAIN_ID: usize = 50;

/// Standard base64 with its padding, which lets the unused bits of the last digit be anything, as
/// Go does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Some editors put it before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The time zones that a form of genesis allows.
#[derive(Clone, Copy)]
enum Zones {
    Utc,
    All,
}

/// A genesis document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Absent, null or year 1 in the file is the reader's clock (CometBFT does the same): `None`.
    pub genesis_time: Option<Time>,
    /// 1 to 50 bytes.
    pub chain_id: String,
    /// 1 or more.
    pub initial_height: Height,
    /// Given or default.
    pub params: ConsensusParams,
    /// In the file's order; may be empty when the application names them.
    pub validators: Vec<Validator>,
    /// The application's hash before the first block.
    pub app_hash: Bytes,
    /// Raw JSON, byte for byte; empty when absent or null.
    pub app_state: Bytes,
}

/// Why a file is no genesis.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenesisError {
    /// A value is not of the form that its key asks for.
    #[error("genesis: {at}: {why}")]
    Value {
        /// The path to the value: `validators[2].power`; `document` for the whole.
        at: String,
        /// Expected and found, in words.
        why: String,
    },
    /// A validator's key cannot be used.
    #[error("genesis: validators[{index}].pub_key: {why}")]
    Key {
        /// The validator's place.
        index: usize,
        /// Names the type.
        why: KeyError,
    },
    /// The file is something else, which people often have in a genesis' place: its kind, and how
    /// to get the genesis.
    #[error("genesis: this is {0}")]
    NotGenesis(String),
    /// A parameter is out of its range.
    #[error("genesis, by the rules of {rules}: consensus_params: {why}")]
    Params {
        /// Names the parameter.
        why: ParamsError,
        /// The name of the rules of the first height.
        rules: &'static str,
    },
    /// A validator's key is of a type that the version does not have.
    #[error("genesis, by the rules of {rules}: validators[{index}].pub_key: {why}")]
    KeyType {
        /// The validator's place.
        index: usize,
        /// Names the type.
        why: ParamsError,
        /// The name of the rules of the first height.
        rules: &'static str,
    },
}

impl GenesisError {
    fn value(at: &str, why: impl Into<String>) -> Self {
        GenesisError::Value {
            at: at.to_owned(),
            why: why.into(),
        }
    }
}

impl Genesis {
    /// Reads a genesis file by the rules of CometBFT 0.38.
    ///
    /// # Errors
    /// As [`Genesis::from_bytes`].
    pub fn parse(json: &[u8]) -> Result<Genesis, GenesisError> {
        Genesis::from_bytes(&Bytes::copy_from_slice(json))
    }

    /// Reads a genesis file by the rules of CometBFT 0.38, in CometBFT's form or the Cosmos SDK's;
    /// a byte order mark before it is skipped. The application's state is not copied: it shares the
    /// memory of `json`.
    ///
    /// # Errors
    /// Where CometBFT refuses to start: names the key, what was expected and what was found. A key
    /// type that we cannot verify is named, and so is a file that is something else than a genesis.
    pub fn from_bytes(json: &Bytes) -> Result<Genesis, GenesisError> {
        Genesis::read(json, &RuleSchedule::default())
    }

    /// [`Genesis::from_bytes`] as a node of the chain's own version reads it: by the rules of the
    /// first height, which decide which params there are, what they are called, and their values
    /// when they are left out.
    ///
    /// # Errors
    /// As [`Genesis::from_bytes`].
    pub fn read(json: &Bytes, rules: &RuleSchedule) -> Result<Genesis, GenesisError> {
        Genesis::of(&Object::of_genesis(json)?, json, rules)
    }

    /// [`Genesis::from_bytes`], and by the first other rules that read the file where those of
    /// CometBFT 0.38 do not. The rules that were used come with it.
    ///
    /// # Errors
    /// Those of the rules of CometBFT 0.38, when no others read it either.
    pub fn read_by_any(json: &Bytes) -> Result<(Genesis, RuleSchedule), GenesisError> {
        let doc = Object::of_genesis(json)?;
        let read = |rules: RuleSchedule| Ok((Genesis::of(&doc, json, &rules)?, rules));
        read(RuleSchedule::default()).or_else(|error| {
            let mut others = Rules::ALL.into_iter();
            let found = others.find_map(|rules| read(rules.into()).ok());
            found.ok_or(error)
        })
    }

    /// The genesis of a document: the file is taken apart once, however many rules are tried.
    fn of(doc: &Object<'_>, json: &Bytes, rules: &RuleSchedule) -> Result<Genesis, GenesisError> {
        let sdk = doc.get("consensus").is_some();
        let group = match doc.get("consensus") {
            Some(consensus) => Object::read("consensus", Some(consensus))?,
            None => doc.clone(),
        };
        // All values are read before any is judged, as CometBFT does.
        let zones = if sdk { Zones::All } else { Zones::Utc };
        let time = doc.time("genesis_time", zones)?;
        let chain_id = doc.string("chain_id")?;
        // The SDK writes a number where CometBFT writes a string, …
        let initial_height = match doc.get("initial_height") {
            Some(raw) if sdk && quoted(raw).is_none() => json_of(&doc.path("initial_height"), raw)?,
            _ => doc.int64("initial_height")?,
        };
        let initial_height = check_initial_height(initial_height)?;
        let rules = rules.at(initial_height);
        let form = &rules.params;
        let params_key = if sdk { "params" } else { "consensus_params" };
        let params = match group.get(params_key) {
            Some(raw) => read_params(&group.path(params_key), raw, form)?,
            None => ConsensusParams::default_of(form),
        };
        let validators = group.list("validators")?;
        let at = group.path("validators");
        let validators = validators.iter().enumerate();
        let validators = validators.map(|(index, raw)| read_validator(&at, index, raw));
        let validators = validators.collect::<Result<_, GenesisError>>()?;
        // … and base64 where CometBFT writes hexadecimal.
        let app_hash = if sdk {
            read_bytes("app_hash", doc.get("app_hash"))?.into()
        } else {
            doc.hex("app_hash")?.into()
        };
        let app_state = doc.get("app_state").map_or("", RawValue::get);
        let genesis = Genesis {
            genesis_time: (time != Time::ZERO).then_some(time),
            chain_id,
            initial_height,
            params,
            validators,
            app_hash,
            app_state: json.slice_ref(app_state.as_bytes()),
        };
        genesis.check(rules)?;
        Ok(genesis)
    }

    fn check(&self, rules: &Rules) -> Result<(), GenesisError> {
        let len = self.chain_id.len();
        if len == 0 || len > MAX_CHAIN_ID {
            let why = format!("{len} bytes, expected 1 to {MAX_CHAIN_ID}");
            return Err(GenesisError::value("chain_id", why));
        }
        let params = self.params.validate(&rules.params);
        params.map_err(|why| GenesisError::Params {
            why,
            rules: rules.name,
        })?;
        for (index, validator) in self.validators.iter().enumerate() {
            let kind = check_key_type(&rules.params, validator.key.key_type());
            kind.map_err(|why| GenesisError::KeyType {
                index,
                why,
                rules: rules.name,
            })?;
        }
        // A negative one is refused when the set is made, as in CometBFT (`protocol.md` 6.1).
        match self.validators.iter().position(|v| v.power == 0) {
            Some(index) => Err(GenesisError::value(
                &format!("validators[{index}].power"),
                "a validator of genesis must have voting power",
            )),
            None => Ok(()),
        }
    }
}

/// Files that are told by their first bytes.
fn other_file(text: &[u8]) -> Option<String> {
    let what = if text.starts_with(&[0x1f, 0x8b]) {
        "a gzip file: unpack it"
    } else if text.starts_with(b"version https://git-lfs") {
        "a Git LFS pointer, which stands for the file: get the file itself, with `git lfs pull` or from the page's download link"
    } else if text.trim_ascii_start().starts_with(b"<") {
        "a page of HTML or XML: download the raw file that the page shows"
    } else {
        return None;
    };
    Some(what.to_owned())
}

/// The answer of a node's RPC in a genesis' place.
fn answer_of_a_node(doc: &Object<'_>) -> Result<Option<String>, GenesisError> {
    let answer = match doc.get("result") {
        Some(result) => Object::read("result", Some(result))?,
        None => Object::read("document", None)?,
    };
    let (bare, within) = (doc.get("chain_id").is_none(), doc.get("result").is_some());
    // An answer may have lost its wrapping on the way. A genesis that has such a key has a chain
    // id.
    let has = |name| answer.get(name).is_some() || (bare && doc.get(name).is_some());
    let what = if has("genesis") {
        let path = if within {
            ".result.genesis"
        } else {
            ".genesis"
        };
        format!("a node's answer with the genesis inside: take it out, as `jq {path}` does")
    } else if has("chunk") && has("data") {
        let number = |name| {
            let raw = answer.get(name).or_else(|| doc.get(name));
            raw.map_or("?", |raw| raw.get().trim_matches('"'))
                .to_owned()
        };
        format!(
            "a part of a node's answer, chunk {} of {} (counted from 0): fetch /genesis_chunked?chunk=N for all of them, \
             decode each one's data from base64, and join these",
            number("chunk"),
            number("total")
        )
    } else if within || (bare && doc.get("jsonrpc").is_some()) {
        "a node's answer to another question: ask its /genesis, and take out .result.genesis"
            .to_owned()
    } else {
        return Ok(None);
    };
    Ok(Some(what))
}

/// 0 stands for 1.
fn check_initial_height(height: i64) -> Result<Height, GenesisError> {
    match Height::from_wire(height) {
        Some(height) => Ok(height.max(Height::new(1))),
        None => Err(GenesisError::value(
            "initial_height",
            format!("{height}, expected 0 or more"),
        )),
    }
}

/// A group that is missing is all zeros, which the checks refuse for most.
fn read_params(
    at: &str,
    raw: &RawValue,
    form: &ParamsForm,
) -> Result<ConsensusParams, GenesisError> {
    let params = Object::read(at, Some(raw))?;
    let block = params.object("block")?;
    let evidence = params.object("evidence")?;
    let validator = params.object("validator")?;
    let types = validator.list("pub_key_types")?;
    let types_at = validator.path("pub_key_types");
    if form.time_iota_is_required && block.int64("time_iota_ms")? <= 0 {
        let why = "missing or not above 0, which CometBFT 0.34 refuses; of another version, name its rules with --rules";
        return Err(GenesisError::value(&block.path("time_iota_ms"), why));
    }
    // A group that the version does not have is not read.
    let group = |name: &str, there: bool| match there {
        true => params.object(name),
        false => Object::read(name, None),
    };
    let has_features = form.groups == ParamsGroups::Features;
    let has_abci = matches!(form.groups, ParamsGroups::Abci | ParamsGroups::Authority);
    let (feature, synchrony) = (
        group("feature", has_features)?,
        group("synchrony", has_features)?,
    );
    let extensions = if has_features {
        &feature
    } else {
        &group("abci", has_abci)?
    };
    let authority = group("authority", form.groups == ParamsGroups::Authority)?;
    Ok(ConsensusParams {
        block_max_bytes: block.int64("max_bytes")?,
        block_max_gas: block.int64("max_gas")?,
        evidence_max_age_num_blocks: evidence.int64("max_age_num_blocks")?,
        evidence_max_age_duration: evidence.int64("max_age_duration")?,
        evidence_max_bytes: evidence.int64("max_bytes")?,
        pub_key_types: types
            .into_iter()
            .map(|raw| read_string(&types_at, raw))
            .collect::<Result<_, _>>()?,
        version_app: params.object("version")?.number(form.app_version_key)?,
        vote_extensions_enable_height: extensions.int64("vote_extensions_enable_height")?,
        authority: authority.string("authority")?.into(),
        pbts_enable_height: feature.int64("pbts_enable_height")?,
        synchrony_precision: synchrony.int64("precision")?,
        synchrony_message_delay: synchrony.int64("message_delay")?,
    })
}

fn read_validator(list: &str, index: usize, raw: &RawValue) -> Result<Validator, GenesisError> {
    let at = format!("{list}[{index}]");
    let entry = Object::read(&at, present(raw))?;
    let stated = entry.hex("address")?;
    let power = entry.int64("power")?;
    // Not used, and read all the same: CometBFT refuses a file in which it is no string.
    entry.string("name")?;
    let key = read_key(&entry, index)?;
    let v = Validator::new(key, power);
    if !stated.is_empty() && stated != v.address.0 {
        let why = format!(
            "{}, expected {}, which is the key's",
            hex::encode(&stated),
            v.address
        );
        return Err(GenesisError::value(&entry.path("address"), why));
    }
    Ok(v)
}

/// `{"type": …, "value": …}`. Alone among all objects it is read with names of either case.
fn read_key(entry: &Object<'_>, index: usize) -> Result<PublicKey, GenesisError> {
    let at = entry.path("pub_key");
    let missing = || GenesisError::value(&at, "missing, expected {\"type\": …, \"value\": …}");
    let mut wrapper = Object::read(&at, Some(entry.get("pub_key").ok_or_else(missing)?))?;
    for (name, _) in &mut wrapper.entries {
        name.make_ascii_lowercase();
    }
    let type_name = wrapper.string("type")?;
    if type_name.is_empty() {
        return Err(missing());
    }
    let refused = |why| GenesisError::Key { index, why };
    let kind = KeyType::from_json_name(&type_name)
        .ok_or_else(|| refused(KeyError::unknown_type(&type_name)))?;
    let bytes = read_bytes(&wrapper.path("value"), wrapper.get("value"))?;
    PublicKey::new(kind, &bytes).map_err(refused)
}

/// A JSON object, its values unread, in the order of the file.
#[derive(Clone)]
struct Object<'a> {
    at: String,
    entries: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// The whole of a genesis file. Other files are named.
    fn of_genesis(json: &'a Bytes) -> Result<Self, GenesisError> {
        let text = json.strip_prefix(BYTE_ORDER_MARK).unwrap_or(json);
        if let Some(what) = other_file(text) {
            return Err(GenesisError::NotGenesis(what));
        }
        let raw: &RawValue = serde_json::from_slice(text)
            .map_err(|e| GenesisError::value("document", e.to_string()))?;
        let doc = Object::read("document", Some(raw))?;
        match answer_of_a_node(&doc)? {
            Some(what) => Err(GenesisError::NotGenesis(what)),
            None => Ok(doc),
        }
    }

    /// Of nothing, an object without entries.
    fn read(at: &str, raw: Option<&'a RawValue>) -> Result<Self, GenesisError> {
        let entries = match raw {
            Some(raw) => json_of::<Entries<'a>>(at, raw)?.0,
            None => Vec::new(),
        };
        Ok(Object {
            at: at.to_owned(),
            entries,
        })
    }

    fn path(&self, name: &str) -> String {
        if self.at == "document" {
            name.to_owned()
        } else {
            format!("{}.{name}", self.at)
        }
    }

    /// The last value of this name; `None` when there is none or it is null.
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let last = self.entries.iter().rev().find(|(n, _)| n == name);
        last.and_then(|(_, raw)| present(raw))
    }

    fn object(&self, name: &str) -> Result<Object<'a>, GenesisError> {
        Object::read(&self.path(name), self.get(name))
    }

    fn list(&self, name: &str) -> Result<Vec<&'a RawValue>, GenesisError> {
        match self.get(name) {
            Some(raw) => json_of(&self.path(name), raw),
            None => Ok(Vec::new()),
        }
    }

    fn string(&self, name: &str) -> Result<String, GenesisError> {
        self.get(name)
            .map_or(Ok(String::new()), |raw| read_string(&self.path(name), raw))
    }

    fn int64(&self, name: &str) -> Result<i64, GenesisError> {
        self.number(name)
    }

    /// A 64-bit number: a string that holds JSON, a number or null.
    fn number<T: DeserializeOwned + Default + FromStr>(
        &self,
        name: &str,
    ) -> Result<T, GenesisError> {
        let Some(raw) = self.get(name) else {
            return Ok(T::default());
        };
        let wrong = |why: String| {
            let why = format!("{}: expected a 64-bit integer in a string{why}", raw.get());
            GenesisError::value(&self.path(name), why)
        };
        let text = quoted(raw).ok_or_else(|| wrong(String::new()))?;
        if text.trim_matches(' ') == "-0" {
            // An integer in Go, where it is signed; always a float in serde_json.
            return "-0".parse().map_err(|_| wrong(String::new()));
        }
        let number: Option<T> = serde_json::from_str(text).map_err(|e| wrong(format!(": {e}")))?;
        Ok(number.unwrap_or_default())
    }

    /// Hexadecimal of either case.
    fn hex(&self, name: &str) -> Result<Vec<u8>, GenesisError> {
        let Some(raw) = self.get(name) else {
            return Ok(Vec::new());
        };
        let wrong = |why: String| {
            let why = format!("{}: expected a hexadecimal string{why}", raw.get());
            GenesisError::value(&self.path(name), why)
        };
        let text = quoted(raw).ok_or_else(|| wrong(String::new()))?;
        hex::decode(text).map_err(|e| wrong(format!(": {e}")))
    }

    /// RFC 3339; year 1 when absent.
    fn time(&self, name: &str, zones: Zones) -> Result<Time, GenesisError> {
        let Some(raw) = self.get(name) else {
            return Ok(Time::ZERO);
        };
        let parse = match zones {
            Zones::Utc => Time::parse_rfc3339,
            Zones::All => Time::parse_rfc3339_in_any_zone,
        };
        quoted(raw).and_then(parse).ok_or_else(|| {
            let why = format!(
                "{}: expected a time like \"2026-01-31T23:59:59.5Z\"",
                raw.get()
            );
            GenesisError::value(&self.path(name), why)
        })
    }
}

struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The value, if it is not null.
fn present(raw: &RawValue) -> Option<&RawValue> {
    (raw.get() != "null").then_some(raw)
}

/// Text between the quotes of a string, escapes as they are; `None` when it is no string.
fn quoted(raw: &RawValue) -> Option<&str> {
    raw.get().strip_prefix('"')?.strip_suffix('"')
}

fn json_of<'a, T: Deserialize<'a>>(at: &str, raw: &'a RawValue) -> Result<T, GenesisError> {
    serde_json::from_str(raw.get()).map_err(|e| GenesisError::value(at, e.to_string()))
}

fn read_string(at: &str, raw: &RawValue) -> Result<String, GenesisError> {
    Ok(json_of::<Option<String>>(at, raw)?.unwrap_or_default())
}

/// Base64, or as Go also takes it, a list of numbers.
fn read_bytes(at: &str, raw: Option<&RawValue>) -> Result<Vec<u8>, GenesisError> {
    let Some(raw) = raw else {
        return Ok(Vec::new());
    };
    if raw.get().starts_with('[') {
        return json_of(at, raw);
    }
    // Go skips line breaks.
    let text = read_string(at, raw)?.replace(['\r', '\n'], "");
    BASE64
        .decode(text)
        .map_err(|e| GenesisError::value(at, format!("{}: expected base64: {e}", raw.get())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::state::ChainState;
    use crate::chain::testing::{group, hash, hex, int, name, ok, params_update, text, time};
    use crate::chain::validators::ValidatorSet;

    const NOW: Time = Time {
        seconds: 1_800_000_000,
        nanos: 5,
    };

    fn assert_set(set: &ValidatorSet, expected: &serde_json::Value) {
        let found = set.iter().zip(set.priorities());
        let found = found.map(|(v, priority)| (v.address.to_string(), v.power, *priority));
        let one = |v: &serde_json::Value| (text(&v[0]).to_owned(), int(&v[1]), int(&v[2]));
        let expected = expected.as_array().map_or(&[][..], Vec::as_slice);
        assert!(found.eq(expected.iter().map(one)), "{set:?}");
    }

    #[test]
    fn documents_and_states_are_gos() {
        for case in group("genesis") {
            let genesis = Genesis::parse(text(&case["json"]).as_bytes());
            if !ok(case) {
                // A key type that we do not know is refused while reading: our types cannot hold
                // it.
                let later = text(&case["stage"]) == "state" && name(case) != "unknown key type";
                assert_eq!(genesis.is_ok(), later, "{}: {genesis:?}", name(case));
                if let Ok(genesis) = genesis {
                    ChainState::from_genesis(&genesis, NOW).unwrap_err();
                }
                continue;
            }
            let genesis = genesis.unwrap_or_else(|e| panic!("{}: {e}", name(case)));
            let state = ChainState::from_genesis(&genesis, NOW).unwrap();
            let expected = &case["result"];
            match expected["time"].as_str() {
                Some(now) => assert_eq!((now, genesis.genesis_time), ("now", None)),
                None => assert_eq!(genesis.genesis_time, Some(time(&expected["time"]))),
            }
            assert_eq!(state.last_block_time, genesis.genesis_time.unwrap_or(NOW));
            assert_eq!(genesis.chain_id, text(&expected["chain_id"]));
            assert_eq!(state.chain_id, text(&expected["chain_id"]));
            assert_eq!(
                state.next_height().to_wire(),
                int(&expected["initial_height"])
            );
            assert_eq!(state.app_hash, hex(&expected["app_hash"]));
            assert_eq!(genesis.app_state, text(&expected["app_state"]));
            // Where the vectors leave the params out, they are the defaults.
            let params = match expected.get("params_proto") {
                Some(proto) => params_update(&hex(proto)),
                None => Default::default(),
            };
            let start = ConsensusParams::default();
            assert_eq!(state.params, start.replaced(&params), "{}", name(case));
            if let Some(given) = expected.get("consensus_hash") {
                assert_eq!(Some(state.params.hash()), hash(given));
            }
            assert_eq!(
                Some(state.validators.hash()),
                hash(&expected["validators_hash"])
            );
            assert_set(&state.validators, &expected["validators"]);
            assert_set(&state.next_validators, &expected["next_validators"]);
        }
    }

    fn error(json: &str) -> String {
        Genesis::parse(json.as_bytes()).unwrap_err().to_string()
    }

    fn file(name: &str) -> Vec<u8> {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/genesis");
        std::fs::read(format!("{dir}/{name}.json")).unwrap()
    }

    #[test]
    fn the_sdks_form_gives_the_state_of_comets() {
        let read = |name: &str| Genesis::parse(&file(name)).unwrap();
        let (ours, theirs) = (read("appgenesis"), read("appgenesis_conv"));
        assert_eq!(ours, theirs);
        assert_eq!(ours.initial_height, Height::new(1000));
        let hashes = |genesis| {
            let state = ChainState::from_genesis(genesis, NOW).unwrap();
            (state.validators.hash(), state.params.hash(), state.app_hash)
        };
        assert_eq!(hashes(&ours), hashes(&theirs));
        let plain = read("bom");
        for (name, height) in [
            ("sdk50", 7),
            ("sdk50_no_height", 1),
            ("sdk50_string_height", 1),
        ] {
            let sdk = read(name);
            assert_eq!(sdk.initial_height, Height::new(height), "{name}");
            assert_eq!(sdk.validators, plain.validators, "{name}");
            assert_eq!(sdk.params, plain.params, "{name}");
            assert_eq!(sdk.params.vote_extensions_enable_height, 60, "{name}");
            assert_eq!(
                (sdk.genesis_time, &sdk.app_state[..]),
                (plain.genesis_time, &b"{}"[..])
            );
        }
        let doc = r#"{"chain_id":"c","genesis_time":"2026-01-01T02:30:00.5+02:30","app_hash":"AQI=","consensus":{}}"#;
        let sdk = Genesis::parse(doc.as_bytes()).unwrap();
        assert_eq!(
            sdk.genesis_time,
            Time::parse_rfc3339("2026-01-01T00:00:00.5Z")
        );
        assert_eq!(
            (&sdk.app_hash[..], sdk.params),
            (&[1, 2][..], ConsensusParams::default())
        );
        // A group that is there is never passed over.
        let bad =
            r#"{"chain_id":"c","initial_height":"1","consensus":{"validators":[{"power":"1"}]}}"#;
        assert!(error(bad).starts_with("genesis: consensus.validators[0].pub_key: missing"));
        assert!(
            error(r#"{"chain_id":"c","consensus":[]}"#).starts_with("genesis: consensus: invalid")
        );
        let params = r#"{"chain_id":"c","consensus":{"params":{"block":{"max_bytes":5}}}}"#;
        assert!(
            error(params).starts_with("genesis: consensus.params.block.max_bytes: 5: expected")
        );
    }

    #[test]
    fn other_files_are_named() {
        let said = |bytes: &[u8]| Genesis::parse(bytes).unwrap_err().to_string();
        assert!(said(&file("rpc_wrapped")).contains("`jq .result.genesis`"));
        assert!(said(&file("lfs")).contains("Git LFS pointer"));
        assert!(said(b"\x1f\x8b\x08").contains("gzip"));
        assert!(said(b"\n<!DOCTYPE html>").contains("HTML"));
        let chunk = br#"{"jsonrpc":"2.0","id":1,"result":{"chunk":"0","total":"3","data":"e30="}}"#;
        assert!(said(chunk).contains("chunk 0 of 3"), "{}", said(chunk));
        assert!(said(br#"{"chunk":1,"total":3,"data":"e30="}"#).contains("chunk 1 of 3"));
        assert!(said(br#"{"genesis":{"chain_id":"c"}}"#).contains("`jq .genesis`"));
        assert!(said(br#"{"jsonrpc":"2.0","error":{"code":-1}}"#).contains("/genesis"));
        // An ordinary genesis may have such keys: unknown ones are ignored.
        Genesis::parse(br#"{"chain_id":"c","genesis":{},"data":1,"chunk":1}"#).unwrap();
    }

    #[test]
    fn the_applications_state_is_not_copied() {
        let json = Bytes::from(r#"{"chain_id":"c","app_state":{"a":1}}"#);
        let genesis = Genesis::from_bytes(&json).unwrap();
        assert!(json.as_ptr_range().contains(&genesis.app_state.as_ptr()));
        assert_eq!(genesis.app_state, r#"{"a":1}"#);
    }

    #[test]
    fn errors_name_key_and_value() {
        let validator = |key: &str| {
            error(&format!(
                r#"{{"chain_id":"c","validators":[{{"pub_key":{key},"power":"1"}}]}}"#
            ))
        };
        assert_eq!(
            validator(r#"{"type":"cometbft/PubKeyMlDsa44","value":"AA=="}"#),
            "genesis: validators[0].pub_key: unsupported key type cometbft/PubKeyMlDsa44"
        );
        assert_eq!(
            validator(r#"{"type":"tendermint/PubKeyEd25519","value":"AA=="}"#),
            "genesis: validators[0].pub_key: ed25519 key of 1 bytes, expected 32"
        );
        assert_eq!(
            error(r#"{"chain_id":"c","initial_height":5}"#),
            "genesis: initial_height: 5: expected a 64-bit integer in a string"
        );
        assert_eq!(
            error(r#"{"chain_id":"c","consensus_params":{"block":{"max_bytes":"0"}}}"#),
            "genesis, by the rules of comet-0.38: consensus_params: block.max_bytes is 0, expected -1 or 1 to 104857600"
        );
        assert_eq!(
            error(r#"{"chain_id":"c","genesis_time":"yesterday"}"#),
            "genesis: genesis_time: \"yesterday\": expected a time like \"2026-01-31T23:59:59.5Z\""
        );
        assert!(error(r#"{"chain_id":7}"#).starts_with("genesis: chain_id: invalid type"));
    }

    #[test]
    fn reads_as_gos_decoder_does() {
        let genesis = |json: &str| Genesis::parse(json.as_bytes()).unwrap();
        // Of a name given twice the last one counts.
        assert_eq!(genesis(r#"{"chain_id":"a","chain_id":"b"}"#).chain_id, "b");
        assert_eq!(genesis(r#"{"chain_id":"\u0061"}"#).chain_id, "a");
        let height =
            |text: &str| genesis(&format!(r#"{{"chain_id":"c","initial_height":"{text}"}}"#));
        assert_eq!(height("-0").initial_height, Height::new(1));
        assert_eq!(height("9223372036854775807").initial_height, Height::MAX);
        let params = |app: &str| {
            let with_app = format!(r#"{{"app":"{app}"}}"#);
            let json = serde_json::json!({"chain_id": "c", "consensus_params": {
                "block": {"max_bytes": "-1", "max_gas": "-1"},
                "evidence": {"max_age_num_blocks": "1", "max_age_duration": "1"},
                "validator": {"pub_key_types": ["secp256k1"]},
                "version": serde_json::from_str::<serde_json::Value>(&with_app).unwrap(),
                "authority": {"authority": "gov"},
            }});
            Genesis::read(&json.to_string().into(), &Rules::COMET_040.into())
        };
        assert_eq!(
            params("18446744073709551615").unwrap().params.version_app,
            u64::MAX
        );
        assert!(params("-0").is_err() && params("-1").is_err());
        assert_eq!(params("0").unwrap().params.authority, "gov");
        // A key in the names that Go's own decoder takes, as a list of numbers.
        let key = serde_json::json!({"Type": "tendermint/PubKeyEd25519", "VALUE": vec![7; 32]});
        let json =
            serde_json::json!({"chain_id": "c", "validators": [{"pub_key": key, "power": "1"}]});
        let read = genesis(&json.to_string());
        assert_eq!(
            read.validators,
            [Validator::new(PublicKey::Ed25519([7; 32]), 1)]
        );
    }
}
