//! `DIR/config.toml`: every flag of the command line may stand there under its own name.
//!
//! What the file says becomes arguments that stand beside those of the command line, so that both are judged by the same rules and
//! a flag is described in one place only. A flag that is given on the command line wins; a list is replaced, not extended.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use toml::{Table, Value};

/// Flags that have no place in a home's own file.
const NOT_HERE: [&str; 3] = ["home", "help", "version"];

/// The arguments that the file adds to those of the command line: none when there is no such file.
///
/// `commands` is the whole command line's description, `name` the subcommand, and `given` what was found on the command line for it.
///
/// # Errors
/// A line that says what is wrong in the file: it cannot be read, is not TOML, or has a key that is no flag.
pub(crate) fn arguments(
    file: &Path,
    commands: &Command,
    name: &str,
    given: &ArgMatches,
) -> Result<Vec<OsString>, String> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(format!("{}: {e}", file.display())),
    };
    let table: Table = text
        .parse()
        .map_err(|e: toml::de::Error| format!("{}: {}", file.display(), one_line(&e, &text)))?;
    let mut found = Vec::new();
    for (key, value) in &table {
        if !is_flag(commands, key) {
            return Err(format!(
                "{}: unknown key {key:?}; the keys are the names of the flags: {}",
                file.display(),
                flags(commands).join(", ")
            ));
        }
        let Some(command) = commands.find_subcommand(name) else {
            continue;
        };
        let here = command.get_arguments().chain(commands.get_arguments());
        let known = here.filter(|a| a.get_long() == Some(key)).last();
        let Some(argument) = known else { continue };
        let id = argument.get_id().as_str();
        if given.value_source(id) == Some(ValueSource::CommandLine) {
            continue;
        }
        let takes_value = argument.get_action().takes_values();
        for text in values(key, value, takes_value)
            .map_err(|why| format!("{}: {key}: {why}", file.display()))?
        {
            found.push(text.into());
        }
    }
    Ok(found)
}

/// What a key gives on the command line.
fn values(key: &str, value: &Value, takes_value: bool) -> Result<Vec<String>, String> {
    let one = |value: &Value| match value {
        Value::String(s) => Ok(format!("--{key}={s}")),
        Value::Integer(n) => Ok(format!("--{key}={n}")),
        other => Err(format!(
            "expected a string or a number, found {}",
            other.type_str()
        )),
    };
    match value {
        Value::Boolean(on) if !takes_value => {
            Ok(on.then(|| format!("--{key}")).into_iter().collect())
        }
        other if !takes_value => Err(format!(
            "expected true or false, found {}",
            other.type_str()
        )),
        Value::Array(list) => list.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

fn is_flag(commands: &Command, key: &str) -> bool {
    flags(commands).iter().any(|flag| flag == key)
}

/// Every flag of every subcommand that is about a home, in order.
fn flags(commands: &Command) -> Vec<String> {
    let has_home = |c: &&Command| c.get_arguments().any(|a| a.get_long() == Some("home"));
    let all = commands
        .get_subcommands()
        .filter(has_home)
        .flat_map(Command::get_arguments)
        .chain(commands.get_arguments())
        .filter_map(|a| a.get_long())
        .filter(|long| !NOT_HERE.contains(long));
    let mut names: Vec<String> = all.map(ToOwned::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

/// A parser's complaint in one line, with the line of the file.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text
        .as_bytes()
        .iter()
        .take(at)
        .filter(|b| **b == b'\n')
        .count()
        + 1;
    format!("line {line}: {}", error.message().replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction};

    use super::*;

    fn commands() -> Command {
        let flag = |name: &'static str| Arg::new(name).long(name);
        let sync = Command::new("sync")
            .arg(flag("home"))
            .arg(flag("until"))
            .arg(flag("peer").action(ArgAction::Append))
            .arg(flag("json").action(ArgAction::SetTrue));
        let serve = Command::new("serve").arg(flag("home")).arg(flag("listen"));
        Command::new("blocksync").subcommand(sync).subcommand(serve)
    }

    fn read(text: &str, line: &[&str]) -> Result<Vec<String>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let line = ["blocksync", "sync"].iter().chain(line);
        let matches = commands().get_matches_from(line);
        let (name, given) = matches.subcommand().unwrap();
        let found = arguments(&file, &commands(), name, given)?;
        Ok(found
            .into_iter()
            .map(|a| a.into_string().unwrap())
            .collect())
    }

    #[test]
    fn keys_become_flags_and_the_command_line_wins() {
        let text = "until = 7\npeer = [\"a\", \"b\"]\njson = true\nlisten = \"x\"\n";
        assert_eq!(
            read(text, &[]).unwrap(),
            ["--json", "--peer=a", "--peer=b", "--until=7"]
        );
        assert_eq!(
            read(text, &["--peer", "c", "--until=9"]).unwrap(),
            ["--json"]
        );
    }

    #[test]
    fn what_is_no_flag_is_refused_by_name() {
        let said = read("untill = 7\n", &[]).unwrap_err();
        assert!(said.contains("unknown key \"untill\"") && said.contains("until"));
        assert!(
            read("home = \"x\"\n", &[])
                .unwrap_err()
                .contains("unknown key \"home\"")
        );
        assert!(
            read("json = 1\n", &[])
                .unwrap_err()
                .contains("expected true or false")
        );
        assert!(
            read("until = 7\nb b\n", &[])
                .unwrap_err()
                .contains("line 2")
        );
    }
}
