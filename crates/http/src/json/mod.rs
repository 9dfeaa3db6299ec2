//! Blocks, sets, results and the rest in the JSON of CometBFT's RPC, to the byte (`docs/rpc.md`,
//! section 2).

mod chain;
mod genesis;
mod go;
mod pieces;
mod results;

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blocksync::chain::{Time, Txs};

pub use chain::{
    block, block_id, block_meta, commit, consensus_params, header, public_key, validators,
};
pub use genesis::genesis;
pub use results::{NoResponse, block_results, finalize_response};

pub(crate) use pieces::Pieces;
use pieces::{PIECE, Part, TxList};

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

/// JSON that grows. Nothing is escaped but what goes through `string`. A long list of transactions
/// stays what it is until the text goes out: a block is in memory once, and not once more as text.
#[derive(Clone, Debug, Default)]
pub struct Json {
    /// Parts before `text`, in order.
    parts: VecDeque<Part>,
    text: Vec<u8>,
    /// Bytes of the text that the parts are, or will be.
    len: usize,
    /// Bytes that the parts keep in memory.
    held: usize,
}

/// Transactions of fewer bytes are written at once.
const WORTH_A_PART: usize = 4 << 10;

impl Json {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The whole text in one piece.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        if self.parts.is_empty() {
            return self.text;
        }
        let mut whole = Vec::with_capacity(self.len());
        for piece in self.into_pieces() {
            whole.extend_from_slice(&piece);
        }
        whole
    }

    /// The text, piece by piece.
    pub(crate) fn into_pieces(mut self) -> Pieces {
        self.close_part();
        Pieces(self.parts)
    }

    /// Bytes of the whole text.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len + self.text.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it keeps in memory until all of it is gone.
    pub(crate) fn held(&self) -> usize {
        self.held + self.text.len()
    }

    /// Makes what was written a part.
    fn close_part(&mut self) {
        if !self.text.is_empty() {
            let text = std::mem::take(&mut self.text);
            self.len += text.len();
            self.held += text.len();
            self.parts.push_back(Part::Text(text.into()));
        }
    }

    /// Another JSON text behind this one.
    pub(crate) fn append(&mut self, mut other: Json) -> &mut Self {
        // The usual case, a short answer, is copied rather than made a part.
        if other.parts.is_empty() {
            return self.raw_bytes(&other.text);
        }
        self.close_part();
        self.len += other.len;
        self.held += other.held;
        self.parts.append(&mut other.parts);
        self.text = other.text;
        self
    }

    /// A block's transactions as a list of base64.
    pub(crate) fn txs(&mut self, txs: &Txs) -> &mut Self {
        let held = txs.encoded().len();
        if held < WORTH_A_PART {
            return self.list(txs, |json, tx| {
                if tx.is_empty() {
                    json.raw("\"\""); // in a list an empty transaction is not null
                } else {
                    json.base64(&tx);
                }
            });
        }
        self.close_part();
        let list = TxList::new(txs);
        self.len += list.len();
        // Slices of the block's own bytes: what is held is that, not the base64.
        self.held += held;
        self.parts.push_back(Part::Txs(list));
        self
    }

    /// Text that is JSON already.
    pub fn raw(&mut self, text: &str) -> &mut Self {
        self.raw_bytes(text.as_bytes())
    }

    /// Bytes that are JSON already.
    pub fn raw_bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.text.extend_from_slice(bytes);
        // A long text becomes parts of one size, and never one buffer that is copied as it grows.
        if self.text.len() >= PIECE {
            self.close_part();
        }
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
            // Go's encoder escapes these so that JSON can stand inside of HTML.
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

    fn text(json: &Json) -> String {
        String::from_utf8(json.clone().into_bytes()).unwrap()
    }

    /// A block's transactions of these lengths.
    fn txs(lengths: impl IntoIterator<Item = usize>) -> Txs {
        let mut encoded = Vec::new();
        for (n, length) in lengths.into_iter().enumerate() {
            let tx: Vec<u8> = (n..n + length).map(|byte| byte.to_le_bytes()[0]).collect();
            prost::encoding::bytes::encode(1, &tx, &mut encoded);
        }
        Txs::from_encoded(encoded.into()).unwrap()
    }

    #[test]
    fn a_block_goes_out_in_pieces_and_is_never_all_text() {
        for lengths in [
            vec![10 << 20],
            vec![100; 100_000],
            vec![0; 1 << 20],
            vec![0, 1, 2, 3, PIECE / 4 * 3, 0, PIECE, PIECE + 1, 5],
        ] {
            let txs = txs(lengths);
            let expected: Vec<String> = txs
                .iter()
                .map(|tx| format!("\"{}\"", STANDARD.encode(&tx)))
                .collect();
            let expected = format!("{{\"txs\":[{}]}}!", expected.join(","));
            let mut json = Json::new();
            json.raw("{\"txs\":").txs(&txs).raw("}");
            let mut end = Json::new();
            end.raw("!");
            json.append(end);
            assert_eq!(json.len(), expected.len());
            assert!(
                json.held() <= txs.encoded().len() + 16,
                "no text beside the block"
            );
            let mut whole = Vec::new();
            for piece in json.into_pieces() {
                assert!(piece.len() <= PIECE + 8, "{} bytes", piece.len());
                whole.extend_from_slice(&piece);
            }
            assert!(whole == expected.as_bytes());
        }
    }

    #[test]
    fn parts_follow_each_other_whatever_they_are() {
        let txs = txs([5000, 7]);
        let mut block = Json::new();
        block.raw("a").txs(&txs).raw("b");
        let mut all = Json::new();
        all.raw("[")
            .append(block.clone())
            .raw(",")
            .append(block.clone())
            .raw("]");
        let one = text(&block);
        assert_eq!(text(&all), format!("[{one},{one}]"));
        assert_eq!(all.len(), text(&all).len());
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
