//! JSON as Go's decoder reads it: what it refuses, and in which words. The words are an interface:
//! clients show and match them.

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Json;

/// Go refuses deeper nesting.
const MAX_DEPTH: usize = 10_000;
/// Go's name of the type that a request is read into.
const REQUEST: &str = "struct { JSONRPC string \"json:\\\"jsonrpc\\\"\"; ID interface {} \"json:\\\"id,omitempty\\\"\"; Method string \"json:\\\"method\\\"\"; Params json.RawMessage \"json:\\\"params\\\"\" }";

/// Looks through a text for what is no JSON.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

type Checked = Result<(), String>;

/// Whether a text is one JSON value, in Go's words where it is not.
pub(crate) fn check(text: &[u8]) -> Checked {
    let mut scanner = Scanner { text, at: 0 };
    scanner.document()?;
    scanner.space();
    match scanner.peek() {
        None => Ok(()),
        Some(_) => scanner.unexpected("after top-level value"),
    }
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn unexpected<T>(&self, context: &str) -> Result<T, String> {
        let Some(byte) = self.peek() else {
            return Err("unexpected end of JSON input".to_owned());
        };
        let shown = match byte {
            b'\'' => "'\\''".to_owned(),
            b'"' => "'\"'".to_owned(),
            b'\\' => "'\\\\'".to_owned(),
            b'\n' => "'\\n'".to_owned(),
            b'\r' => "'\\r'".to_owned(),
            b'\t' => "'\\t'".to_owned(),
            0x20..=0x7e => format!("'{}'", char::from(byte)),
            // Go quotes the byte as a rune of Latin-1, printed where that is printable.
            0xa1..=0xac | 0xae..=0xff => format!("'{}'", char::from(byte)),
            0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
            _ => format!("'\\x{byte:02x}'"),
        };
        Err(format!("invalid character {shown} {context}"))
    }

    /// The value with all that is in it, without recursion: what is nested comes from strangers.
    fn document(&mut self) -> Checked {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.space();
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.at += 1;
                    open.push(bracket);
                    // Bounds the memory of `open`, and is Go's own limit.
                    if open.len() > MAX_DEPTH {
                        return Err("exceeded max depth".to_owned());
                    }
                    self.space();
                    if bracket == b'[' && self.peek() == Some(b']')
                        || bracket == b'{' && self.peek() == Some(b'}')
                    {
                        self.at += 1;
                        open.pop();
                    } else {
                        if bracket == b'{' {
                            // The value of this first key is read by the next turn of the loop.
                            self.key("looking for beginning of object key string")?;
                        }
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            if !self.after_value(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Reads on behind a value: whether another one follows.
    fn after_value(&mut self, open: &mut Vec<u8>) -> Result<bool, String> {
        while let Some(bracket) = open.last().copied() {
            self.space();
            match (bracket, self.peek()) {
                (b'{', Some(b',')) => {
                    self.at += 1;
                    self.space();
                    self.key("looking for beginning of object key string")?;
                    return Ok(true);
                }
                (b'[', Some(b',')) => {
                    self.at += 1;
                    return Ok(true);
                }
                (b'{', Some(b'}')) | (b'[', Some(b']')) => {
                    self.at += 1;
                    open.pop();
                }
                (b'{', _) => return self.unexpected("after object key:value pair"),
                _ => return self.unexpected("after array element"),
            }
        }
        Ok(false)
    }

    fn key(&mut self, context: &str) -> Checked {
        if self.peek() != Some(b'"') {
            return self.unexpected(context);
        }
        self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return self.unexpected("after object key");
        }
        self.at += 1;
        Ok(())
    }

    fn scalar(&mut self) -> Checked {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.unexpected("looking for beginning of value"),
        }
    }

    fn literal(&mut self, word: &str) -> Checked {
        for expected in word.chars() {
            if self.peek() != Some(expected as u8) {
                return self.unexpected(&format!("in literal {word} (expecting '{expected}')"));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Checked {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                // Bytes beyond ASCII pass: Go's scanner does not check UTF-8.
                Some(0x20..) => self.at += 1,
                _ => return self.unexpected("in string literal"),
            }
        }
    }

    fn escape(&mut self) -> Checked {
        match self.peek() {
            Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|c| c.is_ascii_hexdigit()) {
                        return self.unexpected("in \\u hexadecimal character escape");
                    }
                    self.at += 1;
                }
            }
            _ => return self.unexpected("in string escape code"),
        }
        Ok(())
    }

    fn number(&mut self) -> Checked {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return self.unexpected("in numeric literal"),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn some_digits(&mut self, context: &str) -> Checked {
        if !self.peek().is_some_and(|c| c.is_ascii_digit()) {
            return self.unexpected(context);
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
    }
}

/// Writes a JSON text again without spaces, with the characters escaped that Go escapes for HTML.
pub(crate) fn compact(json: &mut Json, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (mut inside, mut escaped) = (false, false);
    for c in text.chars() {
        // Space within strings stays.
        if !inside && matches!(c, ' ' | '\t' | '\r' | '\n') {
            continue;
        }
        if c == '"' && !escaped {
            inside = !inside;
        }
        escaped = inside && c == '\\' && !escaped;
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                json.raw(&format!("\\u{:04x}", u32::from(c)));
            }
            c => {
                json.raw(c.encode_utf8(&mut [0; 4]));
            }
        }
    }
}

/// Go's name of a value's kind.
fn kind(value: &str) -> &'static str {
    match value.as_bytes().first() {
        Some(b'{') => "object",
        Some(b'[') => "array",
        Some(b'"') => "string",
        Some(b't' | b'f') => "bool",
        _ => "number",
    }
}

/// One call as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// As it goes into the answer; `None` for a notification.
    pub(crate) id: Option<String>,
    /// Name of the method.
    pub(crate) method: String,
    /// As they came; `None` when there are none.
    pub(crate) params: Option<Box<RawValue>>,
}

/// The members of an object, in order; `None` when it is none.
pub(crate) fn parse_fields(object: &str) -> Option<Vec<(String, Box<RawValue>)>> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, Box<RawValue>)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                fields.push(field);
            }
            Ok(fields)
        }
    }
    serde_json::Deserializer::from_str(object)
        .deserialize_map(Fields)
        .ok()
}

/// The calls in a body, and whether they came as a batch.
///
/// # Errors
/// Go's words for why it is none.
pub(crate) fn requests(body: &[u8], whole_ids: bool) -> Result<Vec<Request>, String> {
    // Before serde reads it, so that errors are in Go's words.
    check(body)?;
    let text = std::str::from_utf8(body).map_err(|_| "invalid UTF-8 in request".to_owned())?;
    let text = text.trim();
    match kind(text) {
        "object" => Ok(vec![request(text, whole_ids)?]),
        "array" => {
            let items: Vec<Box<RawValue>> =
                serde_json::from_str(text).map_err(|why| why.to_string())?;
            let each = items.iter().map(|item| request(item.get(), whole_ids));
            let all: Result<Vec<_>, _> = each.collect();
            // One bad element fails the whole batch, with one error (`rpc.md` 1).
            all.map_err(|_| cannot("array", REQUEST))
        }
        // Go unmarshals null into an empty request, a notification.
        _ if text == "null" => Ok(Vec::new()),
        kind => Err(cannot(kind, REQUEST)),
    }
}

fn cannot(kind: &str, into: &str) -> String {
    format!("json: cannot unmarshal {kind} into Go value of type {into}")
}

fn request(text: &str, whole_ids: bool) -> Result<Request, String> {
    // In a batch too it is a notification without a method, and gets no answer.
    if text == "null" {
        return Ok(Request {
            id: None,
            method: String::new(),
            params: None,
        });
    }
    let Some(fields) = parse_fields(text) else {
        return Err(cannot(kind(text), REQUEST));
    };
    // Names are matched in either case, and of several the last one counts.
    let field = |name: &str| {
        let mut named = fields.iter().rev();
        let found = named.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value).filter(|v| v.get() != "null")
    };
    let method = match field("method") {
        None => String::new(),
        Some(value) => serde_json::from_str(value.get()).map_err(|_| {
            let found = kind(value.get());
            format!("json: cannot unmarshal {found} into Go struct field .method of type string")
        })?,
    };
    Ok(Request {
        id: match field("id") {
            None => None,
            Some(value) => Some(id(value.get(), whole_ids)?),
        },
        method,
        params: field("params").cloned(),
    })
}

/// An id as it goes into the answer.
fn id(value: &str, whole: bool) -> Result<String, String> {
    match kind(value) {
        "string" => {
            let text: String = serde_json::from_str(value).map_err(|why| why.to_string())?;
            let mut json = Json::new();
            json.string(text.as_bytes());
            Ok(String::from_utf8_lossy(&json.into_bytes()).into_owned())
        }
        "number" => {
            // Go reads a number of unknown type as a float.
            let number: f64 = serde_json::from_str(value).map_err(|why| why.to_string())?;
            if whole && number.fract() != 0.0 {
                // 0.40 refuses a fraction where 0.38 cuts it off (`rpc.md` 7).
                return Err(format!("json-rpc ID must be a whole number, got {number}"));
            }
            #[allow(clippy::cast_possible_truncation)] // Go cuts fractions off, too
            Ok((number as i64).to_string())
        }
        "bool" => Err(format!("json-rpc ID ({value}) is of unknown type (bool)")),
        "array" => {
            // As Go's `%v` shows a slice.
            let shown = value.replace(", ", " ").replace(',', " ").replace('"', "");
            Err(format!(
                "json-rpc ID ({shown}) is of unknown type ([]interface {{}})"
            ))
        }
        _ => Err("json-rpc ID (map[]) is of unknown type (map[string]interface {})".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        check(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn go_says_what_is_wrong() {
        for (text, says) in [
            (
                "{nope",
                "invalid character 'n' looking for beginning of object key string",
            ),
            ("", "unexpected end of JSON input"),
            (
                "abc",
                "invalid character 'a' looking for beginning of value",
            ),
            (
                "[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            (
                "{\"a\":1 2}",
                "invalid character '2' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "trie",
                "invalid character 'i' in literal true (expecting 'u')",
            ),
            ("\"a\n\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            (
                "\"\\u12g4\"",
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            ("-a", "invalid character 'a' in numeric literal"),
            (
                "1.e",
                "invalid character 'e' after decimal point in numeric literal",
            ),
            ("{} x", "invalid character 'x' after top-level value"),
            ("007", "invalid character '0' after top-level value"),
        ] {
            assert_eq!(refused(text), says, "{text}");
        }
        let deep = "[".repeat(200_000);
        assert_eq!(refused(&deep), "exceeded max depth");
        let nested = format!("{}{}", "[".repeat(9_000), "]".repeat(9_000));
        assert_eq!(check(nested.as_bytes()), Ok(()));
        let fine = " {\"a\": [1, -0.5e+3, \"\\u00e9\\n\", true, null, {}], \"b\": []} ";
        assert_eq!(check(fine.as_bytes()), Ok(()));
    }

    #[test]
    fn spaces_go_and_html_is_escaped() {
        let mut json = Json::new();
        compact(&mut json, b"{ \"a b\" : [1,\n \"<\\\" x\" ] }");
        assert_eq!(json.into_bytes(), br#"{"a b":[1,"\u003c\" x"]}"#);
    }
}
