//! Blocks, sets, results and the rest in the JSON of CometBFT's RPC, to the byte (`docs/rpc.md`,
//! section 2).

mod chain;
mod genesis;
mod go;
mod results;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blocksync::chain::Time;

pub use chain::{
    block, block_id, block_meta, commit, consensus_params, header, public_key, validators,
};
pub use genesis::genesis;
pub use results::{NoResponse, block_results, finalize_response};

pub(crate) use go::{Request, check, compact, parse_fields, requests};

/// The version of CometBFT whose JSON is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// 0.38.
    #[default]
    V038,
    /// 0.40: consensus params have an authority.
    V040,
}

/// JSON that grows. Nothing is escaped but what goes through `string`.
#[derive(Clone, Debug, Default)]
pub struct Json(Vec<u8>);

impl Json {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The bytes so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// Text that is JSON already.
    pub fn raw(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Bytes that are JSON already.
    pub fn raw_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A number that Go writes as one.
    pub fn number(&mut self, number: impl std::fmt::Display) -> &mut Self {
        self.raw(&number.to_string())
    }

    /// A number of 64 bits, which Go writes as a string.
    pub fn long(&mut self, number: impl std::fmt::Display) -> &mut Self {
        self.raw("\"").number(number).raw("\"")
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, value: bool) -> &mut Self {
        self.raw(if value { "true" } else { "false" })
    }

    /// Bytes as upper-case hex digits; an empty string for none.
    pub fn hex(&mut self, bytes: &[u8]) -> &mut Self {
        self.raw("\"").raw(&hex::encode_upper(bytes)).raw("\"")
    }

    /// Bytes as base64; `null` for none.
    pub fn base64(&mut self, bytes: &[u8]) -> &mut Self {
        if bytes.is_empty() {
            return self.raw("null");
        }
        self.raw("\"").raw(&STANDARD.encode(bytes)).raw("\"")
    }

    /// Text, escaped as Go does it. Bytes that are no UTF-8 become U+FFFD.
    pub fn string(&mut self, text: &[u8]) -> &mut Self {
        self.raw("\"");
        for chunk in text.utf8_chunks() {
            for c in chunk.valid().chars() {
                self.character(c);
            }
            for _ in chunk.invalid() {
                self.raw("\\ufffd");
            }
        }
        self.raw("\"")
    }

    fn character(&mut self, c: char) {
        match c {
            '"' => self.raw("\\\""),
            '\\' => self.raw("\\\\"),
            '\n' => self.raw("\\n"),
            '\r' => self.raw("\\r"),
            '\t' => self.raw("\\t"),
            '\u{8}' => self.raw("\\b"),
            '\u{c}' => self.raw("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' => {
                self.raw(&format!("\\u{:04x}", u32::from(c)))
            }
            c => self.raw(c.encode_utf8(&mut [0; 4])),
        };
    }

    /// A time in RFC 3339 with as many digits as it needs.
    pub fn time(&mut self, time: Time) -> &mut Self {
        self.raw("\"").raw(&time.to_string()).raw("\"")
    }

    /// A list, item by item.
    pub fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.raw("[");
        for (n, item) in items.into_iter().enumerate() {
            if n > 0 {
                self.raw(",");
            }
            each(self, item);
        }
        self.raw("]")
    }

    /// A list as Go writes one that was never made: `null` when it is empty.
    pub fn list_or_null<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        if items.len() == 0 {
            return self.raw("null");
        }
        self.list(items, each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &Json) -> &str {
        std::str::from_utf8(json.as_slice()).unwrap()
    }

    #[test]
    fn strings_are_escaped_as_go_does_it() {
        let mut json = Json::new();
        json.string("<a href=\"x\">\n&\u{2028}\u{1}é\\".as_bytes());
        assert_eq!(
            text(&json),
            r#""\u003ca href=\"x\"\u003e\n\u0026\u2028\u0001é\\""#
        );
        let mut json = Json::new();
        json.string(b"a\xff\xfeb");
        assert_eq!(text(&json), r#""a\ufffd\ufffdb""#);
    }

    #[test]
    fn times_have_the_digits_they_need() {
        for (expected, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("0001-01-01T00:00:00Z", -62_135_596_800, 0),
            ("2026-01-01T00:00:02.303Z", 1_767_225_602, 303_000_000),
            ("2024-02-29T23:59:59.000000001Z", 1_709_251_199, 1),
            ("2100-03-01T00:00:00Z", 4_107_542_400, 0),
            (
                "9999-12-31T23:59:59.999999999Z",
                253_402_300_799,
                999_999_999,
            ),
        ] {
            let time = Time { seconds, nanos };
            assert_eq!(time.to_string(), expected);
            assert_eq!(Time::parse_rfc3339(expected), Some(time), "the way back");
        }
    }

    #[test]
    fn nothing_is_null_or_an_empty_list() {
        let mut json = Json::new();
        json.base64(b"").raw(",").hex(b"").raw(",");
        json.list_or_null([1; 0].into_iter(), |_, _| ()).raw(",");
        json.list([1, 2], |json, n| {
            json.long(n);
        });
        assert_eq!(text(&json), r#"null,"",null,["1","2"]"#);
    }
}
