//! Texts about the program itself: completions for shells, manual pages.

use std::path::Path;

use clap_complete::Shell;
use clap_mangen::Man;

use crate::args;
use crate::console;
use crate::failure::{Exit, Failure};

/// Prints the script that completes commands and flags in a shell.
///
/// # Errors
/// None yet.
pub(crate) fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "blocksync", &mut script);
    console::print(String::from_utf8_lossy(&script).trim_end());
    Ok(Exit::Reached)
}

/// Writes a page for each command into a directory, or prints the first.
///
/// # Errors
/// When the directory cannot be written to.
pub(crate) fn man(dir: Option<&Path>) -> Result<Exit, Failure> {
    let mut command = args::command();
    // Names become `blocksync-sync`, and flags that all commands share come to each.
    command.build();
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = Man::new(command).render(&mut page);
        rendered.map_err(|e| Failure::failed(e.to_string()))?;
        console::print(String::from_utf8_lossy(&page).trim_end());
        return Ok(Exit::Reached);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| write_pages(&command, "blocksync", dir))
        .map_err(|e| Failure::failed(format!("{}: {e}", dir.display())))?;
    Ok(Exit::Reached)
}

fn write_pages(command: &clap::Command, name: &str, dir: &Path) -> std::io::Result<()> {
    let titled = command
        .clone()
        .name(name.to_owned())
        .display_name(name.to_owned());
    let mut page = Vec::new();
    Man::new(titled).render(&mut page)?;
    std::fs::write(dir.join(format!("{name}.1")), page)?;
    // `help` is clap's own command, and only repeats the others.
    let shown = |c: &&clap::Command| !c.is_hide_set() && c.get_name() != "help";
    command
        .get_subcommands()
        .filter(shown)
        .try_for_each(|below| write_pages(below, &format!("{name}-{}", below.get_name()), dir))
}
