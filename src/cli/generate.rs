//! `ttlfs completions` and `ttlfs man`, from the same description as the parser.

use super::{Cli, Failure};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::{self, Write};
use std::process::ExitCode;

const MORE_SECTIONS: &str = r#".SH "EXIT STATUS"
.IP 0
Done.
.IP 1
Something could not be done; each such thing is said on standard error.
.IP 2
Wrong usage or configuration; nothing was changed.
.PP
\fBttlfs run\fR exits with the status of the command, 128 and the number of the signal that ended it, 127 if it was
not found, 126 if it could not be executed, 125 if ttlfs itself failed.
.SH ENVIRONMENT
.IP TTLFS_CONFIG
The configuration file of \fBttlfs mount\fR, if \-c doesn't name one.
.IP TTLFS_LOG
What is logged: a level (error, warn, info, debug, trace), or MODULE=LEVEL, separated by commas.
.SH FILES
.IP "BACKING/.ttlfs/"
Private state of a mount.
.IP "/run/ttlfs, $XDG_RUNTIME_DIR/ttlfs"
What is mounted, and who serves it.
.SH "SEE ALSO"
.BR mount (8),
.BR fusermount3 (1)
"#;

pub(super) fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ttlfs", &mut text);
    print(&text)
}

pub(super) fn manual() -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    render(&mut text).map_err(Failure::failed)?;
    print(&text)
}

fn render(page: &mut Vec<u8>) -> io::Result<()> {
    let mut command = Cli::command();
    command.build();
    let manual = clap_mangen::Man::new(command.clone());
    manual.render_title(page)?;
    manual.render_name_section(page)?;
    manual.render_synopsis_section(page)?;
    manual.render_description_section(page)?;
    writeln!(page, ".SH COMMANDS")?;
    for subcommand in command.get_subcommands() {
        render_subcommand(page, subcommand)?;
    }
    page.write_all(MORE_SECTIONS.as_bytes())
}

fn render_subcommand(page: &mut Vec<u8>, command: &clap::Command) -> io::Result<()> {
    if command.is_hide_set() {
        return Ok(());
    }
    let name = command.get_bin_name().unwrap_or(command.get_name());
    writeln!(page, ".SS \"{name}\"")?;
    let manual = clap_mangen::Man::new(command.clone());
    let mut sections = Vec::new();
    manual.render_synopsis_section(&mut sections)?;
    manual.render_description_section(&mut sections)?;
    if command.get_arguments().next().is_some() {
        manual.render_options_section(&mut sections)?;
    }
    // Sections of the page become paragraphs of the command.
    for line in String::from_utf8_lossy(&sections).lines() {
        if line.starts_with(".SH") {
            writeln!(page, ".PP")?;
        } else if !line.starts_with(".ie") && !line.starts_with(".el") {
            writeln!(page, "{line}")?;
        }
    }
    for subcommand in command.get_subcommands() {
        render_subcommand(page, subcommand)?;
    }
    Ok(())
}

/// A reader that stops reading (`| head`) is no failure.
fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::failed(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}
