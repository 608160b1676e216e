//! `rudder completions` and `rudder man`: what shells and `man` want to know of the command line, made from the command
//! line itself, so that it cannot be out of date.

use super::{CliError, style};
use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `rudder completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
    /// The program: the script of each is a file of its own
    #[arg(long, value_name = "PROGRAM", default_value = "rudder")]
    program: Program,
    /// Print the script within JSON
    #[arg(long)]
    json: bool,
}

/// Whose command line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Program {
    /// The operator's program
    Rudder,
    /// The daemon
    Rudderd,
}

impl Program {
    const ALL: [Program; 2] = [Program::Rudder, Program::Rudderd];

    fn name(self) -> &'static str {
        match self {
            Program::Rudder => "rudder",
            Program::Rudderd => "rudderd",
        }
    }

    fn command(self) -> clap::Command {
        match self {
            Program::Rudder => super::command(),
            Program::Rudderd => rudder_daemon::arguments::Arguments::command(),
        }
    }
}

/// Arguments of `rudder man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder for the pages; it is made
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print the names of the pages as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the completion script of a shell.
///
/// # Errors
/// Standard output cannot be written.
pub fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let script = script(args.shell, args.program)?;
    if args.json {
        let (shell, program) = (args.shell.to_string(), args.program.name());
        return style::print_json(&json!({"shell": shell, "program": program, "script": script}));
    }
    style::print(&script)
}

fn script(shell: Shell, program: Program) -> Result<String, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program.command(), program.name(), &mut script);
    String::from_utf8(script).map_err(|error| CliError::context("the script is not text", error))
}

/// Writes a page for each subcommand, and one for the daemon.
///
/// # Errors
/// The folder or a page cannot be written.
pub fn man(args: &ManArgs) -> Result<(), CliError> {
    let dir = args.dir.display();
    std::fs::create_dir_all(&args.dir).map_err(|error| CliError::context(format!("cannot make {dir}"), error))?;
    let mut pages = Vec::new();
    for program in Program::ALL {
        let mut command = program.command();
        command.build();
        write(&command, program.name(), &args.dir, &mut pages)?;
    }
    if args.json {
        return style::print_json(&json!({"dir": args.dir, "pages": pages}));
    }
    let first = args.dir.join("rudder.1");
    style::print(&format!(
        "{} in {dir}; read with `man -l {}`\n",
        style::plural(pages.len() as u64, "page"),
        first.display()
    ))
}

/// `rudder-tool-grow.1` and so on.
fn write(command: &clap::Command, name: &str, dir: &Path, pages: &mut Vec<String>) -> Result<(), CliError> {
    let file = format!("{name}.1");
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    let path = dir.join(&file);
    std::fs::write(&path, text)
        .map_err(|error| CliError::context(format!("cannot write {}", path.display()), error))?;
    pages.push(file);
    let mut below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    below.try_for_each(|below| write(below, &format!("{name}-{}", below.get_name()), dir, pages))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All subcommands, as `tool grow`.
    fn paths(command: &clap::Command, path: &str) -> Vec<String> {
        let below = command.get_subcommands().filter(|below| below.get_name() != "help");
        below
            .flat_map(|below| {
                let path = format!("{path} {}", below.get_name()).trim().to_owned();
                std::iter::once(path.clone()).chain(paths(below, &path)).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn every_subcommand_is_in_every_script() {
        let paths = paths(&super::super::command(), "");
        assert!(paths.len() > 20 && paths.contains(&"tool grow".to_owned()), "{paths:?}");
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let script = script(shell, Program::Rudder).unwrap();
            for path in &paths {
                let name = path.rsplit(' ').next().unwrap();
                assert!(script.contains(name), "{shell}: {path}");
            }
            assert!(script.contains("offline"), "{shell}: options are there, too");
            let daemon = super::script(shell, Program::Rudderd).unwrap();
            assert!(daemon.contains("rudderd") && daemon.contains("print-config"), "{shell}: {daemon}");
            assert!(!daemon.contains("offline"), "{shell}: and none of the other's");
        }
    }

    #[test]
    fn every_subcommand_has_a_page_with_its_examples() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("man");
        man(&ManArgs { dir: out.clone(), json: false }).unwrap();
        for path in paths(&super::super::command(), "") {
            let file = out.join(format!("rudder-{}.1", path.replace(' ', "-")));
            let page = std::fs::read_to_string(&file).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{}: {page}", file.display());
        }
        let page = std::fs::read_to_string(out.join("rudder-tool-grow.1")).unwrap();
        assert!(page.contains("rudder tool grow") && page.contains("Exit status"), "{page}");
        let page = std::fs::read_to_string(out.join("rudderd.1")).unwrap();
        assert!(page.contains("\\-\\-print\\-config") && page.contains("SIGHUP reads"), "{page}");
        let error = man(&ManArgs { dir: out.join("rudder.1/x"), json: false }).unwrap_err().to_string();
        assert!(error.contains("cannot make"), "{error}");
    }
}
