//! Edits a source text. Code of mutants stands between markers, which are comments, so that an
//! error of the compiler leads back to them.

use std::ops::Range;

const END: &str = "/*/m*/";

/// A replacement of a range of the original text, mostly of an empty one.
pub struct Edit {
    range: Range<usize>,
    text: String,
    /// It ends something that begins before it.
    closing: bool,
}

/// The edits of one file, in the order in which its syntax tree is walked: the outer before the
/// inner.
#[derive(Default)]
pub struct Edits(Vec<Edit>);

impl Edits {
    /// Inserts a text in front of what begins here.
    pub fn open(&mut self, at: usize, text: String) {
        self.replace(at..at, text);
    }

    /// Inserts a text behind what ends here.
    pub fn close(&mut self, at: usize, text: String) {
        let range = at..at;
        self.0.push(Edit {
            range,
            text,
            closing: true,
        });
    }

    /// Replaces a range.
    pub fn replace(&mut self, range: Range<usize>, text: String) {
        self.0.push(Edit {
            range,
            text,
            closing: false,
        });
    }

    /// The edited text.
    pub fn apply(self, original: &str) -> String {
        let mut edits: Vec<(usize, Edit)> = self.0.into_iter().enumerate().collect();
        // At one place everything is closed before anything is opened, the inner before the outer.
        edits.sort_by_key(|(n, edit)| {
            let n = *n as i64;
            (
                edit.range.start,
                !edit.closing,
                if edit.closing { -n } else { n },
            )
        });
        let (mut text, mut at) = (String::new(), 0);
        for (_, edit) in edits {
            text += &original[at..edit.range.start];
            text += &edit.text;
            at = edit.range.end;
        }
        text += &original[at..];
        text
    }
}

/// The beginning of a text that belongs to these mutants.
pub fn begin(ids: impl IntoIterator<Item = u32>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| id.to_string()).collect();
    format!("/*m {}*/", ids.join(" "))
}

/// The end of what began last.
pub fn end() -> &'static str {
    END
}

/// The mutants to which a range of an edited text belongs: those of the innermost pair of markers
/// around its beginning, else all that begin within it.
pub fn mutants_at(text: &str, range: Range<usize>) -> Vec<u32> {
    let (mut around, mut within) = (Vec::new(), Vec::new());
    for (at, _) in text[..range.end].match_indices("/*") {
        if text[at..].starts_with(END) && at < range.start {
            around.pop();
        } else if let Some(rest) = text[at..].strip_prefix("/*m ") {
            let ids = rest.split("*/").next().unwrap_or_default();
            let ids: Vec<u32> = ids.split(' ').filter_map(|id| id.parse().ok()).collect();
            if at <= range.start {
                around.push(ids);
            } else {
                within.extend(ids);
            }
        }
    }
    around.pop().unwrap_or(within)
}

/// The mutants that delete arms of the `match` whose scrutinee ends here.
pub fn arms_after(text: &str, end: usize) -> Vec<u32> {
    let mut depth = 0;
    let mut arms = Vec::new();
    for (at, c) in text[end..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            '/' if depth == 1 => {
                let marker = text[end + at..].strip_prefix("/*m ");
                let parts = marker.and_then(|m| m.split_once("*/"));
                let arm = parts.filter(|(_, guard)| guard.starts_with("if !"));
                arms.extend(arm.and_then(|(id, _)| id.parse::<u32>().ok()));
            }
            _ => {}
        }
    }
    arms
}
