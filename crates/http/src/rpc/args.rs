//! Arguments of calls, as Go reads them from JSON and from a URI.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::json::{check, parse_fields};

/// The Go type of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `*int64` or `int64`.
    Int64,
    /// `*int`.
    Int,
    /// `uint`.
    Uint,
    /// `[]byte`: base64 in JSON.
    Bytes,
    /// `HexBytes`: hex in JSON.
    Hex,
}

/// A value; what is not given is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arg {
    /// Not given.
    None,
    /// A number.
    Int(i64),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Arg {
    pub(crate) fn int(&self) -> Option<i64> {
        match self {
            Arg::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Arg::Bytes(bytes) => bytes,
            _ => &[],
        }
    }
}

/// Names and types of a method's arguments.
pub(crate) type Params = &'static [(&'static str, Kind)];

impl Kind {
    fn is_number(self) -> bool {
        matches!(self, Kind::Int64 | Kind::Int | Kind::Uint)
    }

    fn go_name(self) -> &'static str {
        match self {
            Kind::Int64 => "int64",
            Kind::Int => "int",
            Kind::Uint => "uint",
            Kind::Bytes | Kind::Hex => "[]uint8",
        }
    }

    /// From a JSON value that is one.
    fn read_json(self, text: &str) -> Result<Arg, String> {
        if text == "null" {
            return Ok(Arg::None);
        }
        // Go wants 64-bit numbers as strings, and reads the string's content as JSON again.
        let unquoted = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        match (self, unquoted) {
            (Kind::Int64 | Kind::Int | Kind::Uint, Some("")) => Ok(Arg::None),
            (Kind::Int64 | Kind::Int | Kind::Uint, Some(number)) => self.number(number),
            (Kind::Int64 | Kind::Int | Kind::Uint, None) => Err(format!(
                "invalid 64-bit integer encoding {}, expected string",
                quoted(text)
            )),
            (Kind::Hex, Some(digits)) => hex(digits),
            (Kind::Hex, None) => Err(format!("invalid hex string: {text}")),
            (Kind::Bytes, Some(_)) => base64(&string(text)?),
            (Kind::Bytes, None) => Err(format!(
                "json: cannot unmarshal {text} into Go value of type []uint8"
            )),
        }
    }

    fn number(self, text: &str) -> Result<Arg, String> {
        check(text.as_bytes())?;
        let fits = match self {
            // The only argument of this kind is a chunk's number, far below what an i64 holds.
            Kind::Uint => text.parse::<u64>().ok().and_then(|n| i64::try_from(n).ok()),
            _ => text.parse::<i64>().ok(),
        };
        fits.map(Arg::Int).ok_or_else(|| {
            let name = self.go_name();
            let numeric = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
            let what = if numeric {
                format!("number {text}")
            } else {
                "string".to_owned()
            };
            format!("json: cannot unmarshal {what} into Go value of type {name}")
        })
    }

    /// From the text of a URI's argument.
    fn read_uri(self, text: &str) -> Result<Arg, String> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_int = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        // Bare digits are a number in a URI alone; in JSON they must be quoted.
        if is_int && self.is_number() {
            return self.number(text);
        }
        let prefix = text.get(..2).unwrap_or_default();
        if prefix.eq_ignore_ascii_case("0x") {
            if self.is_number() {
                let name = self.go_name();
                return Err(format!("got a hex string arg, but expected '{name}'"));
            }
            return hex(&text[2..]);
        }
        let is_quoted = text.len() >= 2 && text.starts_with('"') && text.ends_with('"');
        if is_quoted && !self.is_number() {
            check(text.as_bytes())?;
            // Raw bytes, not base64: a trap of the original that clients know (`rpc.md` 8).
            return Ok(Arg::Bytes(string(text)?.into_bytes()));
        }
        if !self.is_number() {
            check(text.as_bytes())?;
        }
        self.read_json(text)
    }
}

/// A JSON string's text.
fn string(text: &str) -> Result<String, String> {
    serde_json::from_str(text).map_err(|why| why.to_string())
}

/// A text as Go's `%q` shows it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() && u32::from(c) < 0x80 => {
                out.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn hex(digits: &str) -> Result<Arg, String> {
    match hex::decode(digits) {
        Ok(bytes) => Ok(Arg::Bytes(bytes)),
        Err(hex::FromHexError::InvalidHexCharacter { c, .. }) => Err(format!(
            "encoding/hex: invalid byte: U+{:04X} '{c}'",
            u32::from(c)
        )),
        // Go looks at the digits before it looks at their number.
        Err(_) => match digits.chars().find(|c| !c.is_ascii_hexdigit()) {
            Some(c) => Err(format!(
                "encoding/hex: invalid byte: U+{:04X} '{c}'",
                u32::from(c)
            )),
            None => Err("encoding/hex: odd length hex string".to_owned()),
        },
    }
}

fn base64(text: &str) -> Result<Arg, String> {
    // Go's decoder skips line breaks.
    let text: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    let decoded = STANDARD.decode(&text).map_err(|why| {
        let at = match why {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol { offset: at, .. } => at,
            _ => text.len(),
        };
        format!("illegal base64 data at input byte {at}")
    });
    decoded.map(Arg::Bytes)
}

/// The arguments in a call's `params`.
///
/// # Errors
/// Go's words.
pub(crate) fn from_json(params: Params, given: &str) -> Result<Vec<Arg>, String> {
    if let Some(fields) = parse_fields(given) {
        let each = params.iter().map(|(name, kind)| {
            // Of several members of one name the last one counts, as in Go's map.
            let mut named = fields.iter().rev();
            match named.find(|(key, _)| key == name) {
                Some((_, value)) => kind.read_json(value.get()),
                None => Ok(Arg::None),
            }
        });
        return each.collect();
    }
    let list: Vec<Box<serde_json::value::RawValue>> =
        serde_json::from_str(given).map_err(|_| {
            let kind = match given.as_bytes().first() {
                Some(b'"') => "string",
                Some(b't' | b'f') => "bool",
                _ => "number",
            };
            format!(
                "unknown type for JSON params: json: cannot unmarshal {kind} into Go value of type []json.RawMessage. Expected map or array"
            )
        })?;
    if list.len() != params.len() {
        let names: Vec<&str> = params.iter().map(|(name, _)| *name).collect();
        // Go shows each value as its bytes.
        // Bounded: the client chose how many and how long.
        let values = list.iter().take(8).map(|value| {
            let bytes = value.get().bytes().take(64).map(|b| b.to_string());
            format!("[{}]", bytes.collect::<Vec<_>>().join(" "))
        });
        return Err(format!(
            "expected {} parameters ([{}]), got {} ([{}])",
            params.len(),
            names.join(" "),
            list.len(),
            values.collect::<Vec<_>>().join(" ")
        ));
    }
    let each = params.iter().zip(&list);
    each.map(|((_, kind), value)| kind.read_json(value.get()))
        .collect()
}

/// The arguments in a query and a form.
///
/// # Errors
/// Go's words.
pub(crate) fn from_uri(params: Params, query: &str, form: &str) -> Result<Vec<Arg>, String> {
    let each = params.iter().map(|(name, kind)| {
        // The query first, and the form where that has nothing: CometBFT's `GetParam`.
        let given = value_of(query, name).filter(|v| !v.is_empty());
        match given.or_else(|| value_of(form, name)) {
            Some(text) if !text.is_empty() => kind.read_uri(&text),
            _ => Ok(Arg::None),
        }
    });
    each.collect()
}

/// The first value of a name in a query; pairs that are badly encoded are skipped, as Go does it.
pub(crate) fn value_of(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key)? == name).then(|| decoded(value))?
    })
}

fn decoded(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |b: Option<u8>| char::from(b?).to_digit(16);
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            // Go refuses a pair with a bare semicolon since 1.17.
            b';' => return None,
            byte => byte,
        });
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_as_go_reads_them() {
        let height: Params = &[("height", Kind::Int64)];
        let read = |query: &str| from_uri(height, query, "").map(|args| args[0].clone());
        assert_eq!(read("height=9"), Ok(Arg::Int(9)));
        assert_eq!(read("height=%229%22"), Ok(Arg::Int(9)));
        assert_eq!(read("height=-3"), Ok(Arg::Int(-3)));
        for nothing in [
            "",
            "height=",
            "height=null",
            "height=%22%22",
            "hight=9",
            "height=%zz",
        ] {
            assert_eq!(read(nothing), Ok(Arg::None), "{nothing}");
        }
        for bad in [
            "height=007",
            "height=0x10",
            "height=abc",
            "height=1.5",
            "height=%221",
        ] {
            assert!(read(bad).is_err(), "{bad}: {:?}", read(bad));
        }
        let hash: Params = &[("hash", Kind::Bytes)];
        let read = |query: &str| from_uri(hash, query, "").map(|args| args[0].clone());
        assert_eq!(read("hash=0xff00"), Ok(Arg::Bytes(vec![0xff, 0])));
        assert_eq!(read("hash=%22ab%22"), Ok(Arg::Bytes(b"ab".to_vec())));
        assert!(read("hash=abcd").is_err() && read("hash=0xabc").is_err());
        let form = from_uri(height, "", "height=12").unwrap();
        assert_eq!(form[0], Arg::Int(12));
    }

    #[test]
    fn json_arguments_are_typed() {
        let params: Params = &[("height", Kind::Int64), ("hash", Kind::Hex)];
        let read = |text: &str| from_json(params, text);
        let both = vec![Arg::Int(60), Arg::Bytes(vec![0xab])];
        assert_eq!(read(r#"{"height":"60","hash":"ab"}"#), Ok(both.clone()));
        assert_eq!(read(r#"["60","AB"]"#), Ok(both));
        assert_eq!(read("{}"), Ok(vec![Arg::None, Arg::None]));
        assert!(
            read(r#"{"height":60}"#)
                .unwrap_err()
                .contains("\"60\", expected string")
        );
        assert!(read(r#"{"hash":"zz"}"#).unwrap_err().contains("U+007A 'z'"));
        assert!(
            read("\"x\"")
                .unwrap_err()
                .contains("cannot unmarshal string")
        );
    }
}
