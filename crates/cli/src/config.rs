//! `DIR/config.toml`: every flag of the command line may stand there under its own name.
//!
//! A value on the command line or in the environment wins over the file's.
//!
//! The file's keys become arguments beside those of the command line, so that both are judged by
//! the same rules and a flag is described in one place only. A list is replaced, not extended.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use clap::Command;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use toml::{Table, Value};

/// Flags that have no place in a home's own file.
const NOT_HERE: [&str; 3] = ["home", "help", "version"];

/// The arguments that the file adds to those of the command line: none when there is no such file.
///
/// `commands` is the whole command line's description, `name` the subcommand, and `is_given` tells
/// of an argument whether it needs no value of the file.
///
/// # Errors
/// A line that says what is wrong in the file: it cannot be read, is not TOML, or has a key that is
/// no flag.
pub(crate) fn arguments(
    file: &Path,
    commands: &Command,
    name: &str,
    is_given: impl Fn(&str) -> bool,
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
        // A key of another command is no mistake: one file is for all of them.
        let Some(command) = commands.find_subcommand(name) else {
            continue;
        };
        let here = command.get_arguments().chain(commands.get_arguments());
        let known = here.filter(|a| a.get_long() == Some(key)).last();
        let Some(argument) = known else { continue };
        let id = argument.get_id().as_str();
        // The command line and the environment win over the file.
        if is_given(id) {
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

/// Arguments for a key.
fn values(key: &str, value: &Value, takes_value: bool) -> Result<Vec<String>, String> {
    let one = |value: &Value| match value {
        Value::String(s) => Ok(format!("--{key}={s}")),
        Value::Integer(n) => Ok(format!("--{key}={n}")),
        Value::Float(n) => Ok(format!("--{key}={n}")),
        Value::Boolean(on) => Ok(format!("--{key}={on}")),
        other => Err(format!(
            "expected a string or a number, found {}",
            other.type_str()
        )),
    };
    match value {
        // A switch has no value on the command line: `false` is said by leaving it out.
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

/// Reads a home's file for every command, and gives the number of its keys.
///
/// # Errors
/// As for `arguments`, and when a command does not take the value of a key.
pub(crate) fn check(file: &Path, commands: &Command) -> Result<usize, String> {
    let mut keys = 0;
    for command in commands.get_subcommands().filter(|c| has_home(c)) {
        let name = command.get_name();
        // Nothing counts as given, so that each value of the file is judged.
        let found = arguments(file, commands, name, |_| false)?;
        keys = keys.max(keys_of(file)?);
        let line = std::iter::once(OsString::from(name)).chain(found);
        // Files and the home itself are no part of the question.
        let alone = whole(commands, name).mut_args(|a| a.required(false));
        if let Err(e) = alone.try_get_matches_from(line)
            && e.kind() != ErrorKind::MissingRequiredArgument
        {
            let why = crate::parse::first_line(&e);
            return Err(format!("{}: {why}", file.display()));
        }
    }
    Ok(keys)
}

fn keys_of(file: &Path) -> Result<usize, String> {
    match std::fs::read_to_string(file) {
        // A file that does not parse was reported by `arguments` just before.
        Ok(text) => Ok(text.parse::<Table>().map_or(0, |table| table.len())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(format!("{}: {e}", file.display())),
    }
}

/// A subcommand with the flags that every command has.
fn whole(commands: &Command, name: &str) -> Command {
    let command = commands.find_subcommand(name).cloned();
    let global = commands.get_arguments().filter(|a| a.is_global_set());
    command.unwrap_or_default().args(global)
}

/// One flag of a command, its value, and where that came from.
pub(crate) struct Setting {
    /// Its name, without the dashes.
    pub flag: String,
    /// The value, as it was written; of a list, with commas between. `None` when there is none.
    pub value: Option<String>,
    /// The file, the environment variable, or "default".
    pub source: String,
}

/// Settings of a command from environment, file and defaults.
///
/// # Errors
/// As for `check`, and when no command of that name has a home.
pub(crate) fn settings(
    file: &Path,
    commands: &Command,
    name: &str,
) -> Result<Vec<Setting>, String> {
    if !commands.find_subcommand(name).is_some_and(has_home) {
        let known = commands.get_subcommands().filter(|c| has_home(c));
        let known: Vec<_> = known.map(Command::get_name).collect();
        return Err(format!(
            "{name:?} is no command with a home; there are {}",
            known.join(", ")
        ));
    }
    let command = whole(commands, name).mut_args(|a| a.required(false));
    // First without the file, to see which flags the environment sets: they win over it.
    let from_environment = command
        .clone()
        .try_get_matches_from([name])
        .map_err(|e| crate::parse::first_line(&e))?;
    let is_given = |id: &str| from_environment.value_source(id) == Some(ValueSource::EnvVariable);
    let found = arguments(file, commands, name, is_given)?;
    let line = std::iter::once(OsString::from(name)).chain(found);
    let matches = command
        .clone()
        .try_get_matches_from(line)
        .map_err(|e| format!("{}: {}", file.display(), crate::parse::first_line(&e)))?;
    let setting = |arg: &clap::Arg| {
        let (id, flag) = (arg.get_id().as_str(), arg.get_long()?);
        if NOT_HERE.contains(&flag) {
            return None;
        }
        let values = matches.get_raw(id).map(|values| {
            let values: Vec<_> = values.map(|v| v.to_string_lossy().into_owned()).collect();
            values.join(",")
        });
        let source = match matches.value_source(id) {
            // Nothing else is on this line than what the file has.
            Some(ValueSource::CommandLine) => file.display().to_string(),
            Some(ValueSource::EnvVariable) => crate::args::variable(flag).unwrap_or_default(),
            _ => "default".to_owned(),
        };
        Some(Setting {
            flag: flag.to_owned(),
            value: values.filter(|v| !v.is_empty()),
            source,
        })
    };
    Ok(command.get_arguments().filter_map(setting).collect())
}

/// A `config.toml` with every flag of a command, each as a comment with its help.
pub(crate) fn template(commands: &Command, name: &str) -> String {
    let mut text = format!(
        "# Settings of this home. Every key is a flag of `blocksync`; these are those of `{name}`, with their defaults.\n\
         # The command line and the environment win over this file. `blocksync config check` reads it.\n"
    );
    let command = whole(commands, name);
    for arg in command.get_arguments() {
        let Some(flag) = arg.get_long().filter(|flag| !NOT_HERE.contains(flag)) else {
            continue;
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let default = arg.get_default_values().first();
        let value = match default.map(|v| v.to_string_lossy().into_owned()) {
            // As TOML writes it: numbers and `false` bare, everything else as a string.
            Some(value) if value.parse::<u64>().is_ok() || value == "false" => value,
            Some(value) => format!("{value:?}"),
            None if arg.get_action().takes_values() => "\"\"".to_owned(),
            None => "false".to_owned(),
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n# {}\n# {flag} = {value}\n",
            help.replace('\n', " ")
        );
    }
    text
}

fn has_home(command: &Command) -> bool {
    command
        .get_arguments()
        .any(|a| a.get_long() == Some("home"))
}

fn is_flag(commands: &Command, key: &str) -> bool {
    flags(commands).iter().any(|flag| flag == key)
}

/// Every flag of every subcommand that is about a home, in order.
fn flags(commands: &Command) -> Vec<String> {
    let all = commands
        .get_subcommands()
        .filter(|c| has_home(c))
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
        let is_given = |id: &str| given.value_source(id) == Some(ValueSource::CommandLine);
        let found = arguments(&file, &commands(), name, is_given)?;
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
    /// The template of `init`, with each comment taken away, is a file that every command takes.
    #[test]
    fn the_template_names_every_flag_and_is_understood() {
        let commands = crate::args::command();
        let text = template(&commands, "sync");
        for flag in ["peer", "patience", "retain-blocks", "log"] {
            assert!(text.contains(&format!("\n# {flag} = ")), "{flag}: {text}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, &text).unwrap();
        assert_eq!(check(&file, &commands), Ok(0));
        let set = |line: &str| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            let is_set = line.contains(" = ") && !line.ends_with("\"\"");
            if is_set {
                line.to_owned()
            } else {
                format!("# {line}")
            }
        };
        let lines: Vec<_> = text.lines().map(set).collect();
        std::fs::write(&file, lines.join("\n")).unwrap();
        assert!(check(&file, &commands).unwrap() > 10);
        std::fs::write(&file, "patience = \"soon\"\n").unwrap();
        let said = check(&file, &commands).unwrap_err();
        assert!(
            said.contains("soon") && said.contains("config.toml"),
            "{said}"
        );
    }

    #[test]
    fn a_setting_names_its_source() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(
            &file,
            "until = 7\npeer = [\"plain://a:1\", \"plain://b:2\"]\n",
        )
        .unwrap();
        let all = settings(&file, &crate::args::command(), "sync").unwrap();
        let of = |flag: &str| all.iter().find(|s| s.flag == flag).unwrap();
        assert_eq!(of("until").value.as_deref(), Some("7"));
        assert!(of("until").source.ends_with("config.toml"));
        assert_eq!(of("peer").value.as_deref(), Some("plain://a:1,plain://b:2"));
        assert_eq!(
            (
                of("patience").value.as_deref(),
                of("patience").source.as_str()
            ),
            (Some("60s"), "default")
        );
        assert_eq!(of("genesis").value, None);
        assert!(settings(&file, &crate::args::command(), "demo").is_err());
    }
}
