//! The status page, as it is before its script runs, and without one. Text from outside is escaped.

use std::fmt::Write as _;

use crate::watch::Shown;

const PAGE: &str = include_str!("../assets/page.html");
pub(crate) const STYLE: &str = include_str!("../assets/page.css");
pub(crate) const SCRIPT: &str = include_str!("../assets/page.js");
pub(crate) const ICON: &str = include_str!("../assets/icon.svg");

/// The letters of the window, and the words for them.
const STATES: [(char, &str); 6] = [
    ('.', "wanted"),
    ('?', "asked"),
    ('h', "held"),
    ('v', "verifying"),
    ('p', "proven"),
    ('a', "applying"),
];

/// Text as it stands in HTML, in an attribute too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn row(cells: &[String]) -> String {
    let mut out = String::from("<tr>");
    for (n, cell) in cells.iter().enumerate() {
        let cell = escaped(cell);
        // A String takes all that is written to it.
        // The first cell names the row, which screen readers tell from `scope`.
        let _ = if n == 0 {
            write!(out, "<th scope=\"row\">{cell}</th>")
        } else {
            write!(out, "<td>{cell}</td>")
        };
    }
    out.push_str("</tr>");
    out
}

fn size(bytes: u64) -> String {
    match bytes {
        1_000_000_000.. => format!("{:.1} GB", bytes as f64 / 1e9),
        1_000_000.. => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.0} kB", bytes as f64 / 1e3),
    }
}

fn time(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn or_dash<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

/// The whole page.
pub(crate) fn render(shown: &Shown) -> String {
    let mut page = String::with_capacity(PAGE.len() + 16 * 1024);
    let mut rest = PAGE;
    // The template has no other braces: style and script are files of their own.
    while let Some((before, after)) = rest.split_once('{') {
        page.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            break;
        };
        page.push_str(&field(shown, name));
        rest = after;
    }
    page.push_str(rest);
    page
}

/// The HTML for a name in the template.
fn field(shown: &Shown, name: &str) -> String {
    match name {
        "cells" => cells(shown),
        "states" => counts(shown)
            .map(|(state, n)| row(&[state.to_owned(), n.to_string()]))
            .collect(),
        "peers" => peers(shown),
        "dropped" => dropped(shown),
        "stages" => stages(shown),
        // Everything but the tables is plain text, and may come from peers or the chain.
        name => escaped(&text(shown, name)),
    }
}

fn text(shown: &Shown, name: &str) -> String {
    let from = shown.started_at;
    match name {
        "outcome_text" => shown.outcome_text.clone(),
        "chain_id" => shown.chain_id.clone(),
        "node_id" => shown.node_id.clone(),
        "program" => shown.program.to_owned(),
        "waiting" => shown.waiting.clone().unwrap_or_default(),
        // At least 1: a progress bar of length 0 is not valid.
        "bar_max" => shown.target.saturating_sub(from).max(1).to_string(),
        "bar_value" => shown.applied.saturating_sub(from).to_string(),
        "applied" => shown.applied.to_string(),
        "target" => shown.target.to_string(),
        "proven" => shown.proven.to_string(),
        "base" => shown.base.to_string(),
        "rate" => shown.blocks_per_second.to_string(),
        "eta" => or_dash(shown.eta_seconds, time),
        "bottleneck" => shown.bottleneck.to_owned(),
        "buffered" => format!(
            "{} of {}",
            size(shown.buffered_bytes),
            size(shown.budget_bytes)
        ),
        "window_label" => {
            let each: Vec<String> = counts(shown)
                .map(|(state, n)| format!("{n} {state}"))
                .collect();
            let first = shown.window_first;
            format!("Window from height {first}: {}", each.join(", "))
        }
        _ => String::new(),
    }
}

fn counts(shown: &Shown) -> impl Iterator<Item = (&'static str, usize)> {
    STATES.iter().map(|(letter, state)| {
        let n = shown.window.chars().filter(|c| c == letter).count();
        (*state, n)
    })
}

fn cells(shown: &Shown) -> String {
    let mut out = String::new();
    for (n, letter) in shown.window.chars().enumerate() {
        let state = STATES.iter().find(|(known, _)| *known == letter);
        // A letter of a later version is drawn like a height that nothing is known of.
        let state = state.map_or("wanted", |(_, state)| state);
        let height = shown.window_first + n as u64;
        let letter = escaped(&letter.to_string());
        let _ = write!(
            out,
            "<span class=\"{state}\" title=\"{height} {state}\">{letter}</span>"
        );
    }
    out
}

fn short(id: &str) -> String {
    id.chars().take(10).collect()
}

fn peers(shown: &Shown) -> String {
    let rows = shown.peers.iter().map(|peer| {
        row(&[
            short(&peer.id),
            peer.address.clone(),
            format!("{}–{}", peer.base, peer.height),
            peer.claim.to_owned(),
            or_dash(peer.bytes_per_second, |rate| format!("{}/s", size(rate))),
            or_dash(peer.latency_ms, |ms| format!("{ms:.1} ms")),
            peer.owes.to_string(),
        ])
    });
    rows.collect()
}

fn dropped(shown: &Shown) -> String {
    let rows = shown.dropped.iter().map(|dropped| {
        row(&[
            short(&dropped.id),
            dropped.address.clone(),
            dropped.fault.clone(),
            dropped.banned_seconds.map_or_else(|| "no".to_owned(), time),
        ])
    });
    rows.collect()
}

fn stages(shown: &Shown) -> String {
    let rows = shown.stages.iter().map(|stage| {
        row(&[
            stage.name.to_owned(),
            stage.blocks.to_string(),
            format!("{}\u{a0}%", stage.busy_percent),
            format!("{}\u{a0}%", stage.waits_for_work_percent),
            format!("{}\u{a0}%", stage.waits_for_room_percent),
        ])
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{DroppedRow, PeerRow};

    #[test]
    fn text_from_outside_is_escaped_and_every_name_is_filled_in() {
        let evil = "<img src=x onerror='a()'>{peers}\"";
        let shown = Shown {
            chain_id: evil.to_owned(),
            outcome_text: evil.to_owned(),
            window_first: 7,
            window: ".?hvpa".to_owned(),
            peers: vec![PeerRow {
                address: evil.to_owned(),
                ..PeerRow::default()
            }],
            dropped: vec![DroppedRow {
                fault: evil.to_owned(),
                ..DroppedRow::default()
            }],
            ..Shown::default()
        };
        let page = render(&shown);
        assert!(
            !page.contains("<img") && !page.contains("onerror='"),
            "{page}"
        );
        assert_eq!(
            page.matches("&lt;img src=x").count(),
            6,
            "title, chain, heading, tables"
        );
        assert!(page.contains("<span class=\"applying\" title=\"12 applying\">a</span>"));
        assert!(page.contains("Window from height 7: 1 wanted, 1 asked"));
        assert!(PAGE.len() + STYLE.len() + SCRIPT.len() + ICON.len() < 100_000);
        for asset in [PAGE, STYLE, SCRIPT] {
            assert!(
                !asset.contains("http://")
                    && !asset.contains("https://")
                    && !asset.contains("innerHTML")
            );
        }
    }
}
