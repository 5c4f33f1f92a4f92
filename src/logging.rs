//! Where log lines go: standard error in front; in the background the configured file, else the system's log,
//! else a small file beside the mount's registry entry.
//!
//! The guard writes its few lines through the same sink without allocating.

use crate::config::{LogFormat, LogLevel, LogOptions};
use rustix::fs::{Mode, OFlags};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

const SYSTEM_LOG: &str = "/dev/log";
/// The facility of syslog(3) for daemons.
const FACILITY_DAEMON: u8 = 3 << 3;
/// The longest line that is sent in one piece.
const LINE_MAX_BYTES: usize = 2048;
/// The fallback file starts anew beyond this, when a daemon opens it.
const FALLBACK_MAX_BYTES: u64 = 1 << 20;

/// How bad it is, as syslog(3) counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error = 3,
    Warning = 4,
    Info = 6,
    Debug = 7,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Warning => "WARN",
            Severity::Info => "INFO",
            Severity::Debug => "DEBUG",
        }
    }
}

/// Where this process' lines go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// Standard error: somebody watches.
    Front,
    /// Nobody watches; the path is for machines without a system log.
    Background { fallback: PathBuf },
}

enum Target {
    Stderr,
    File(File),
    System(UnixDatagram),
}

/// An open log.
pub struct Sink {
    target: Target,
    format: LogFormat,
}

impl Sink {
    /// Opens what the configuration asks for.
    pub fn open(options: &LogOptions, destination: &Destination) -> io::Result<Sink> {
        let target = match (&options.file, destination) {
            (Some(path), _) => Target::File(open_append(path.clone(), None)?),
            (None, Destination::Front) => Target::Stderr,
            (None, Destination::Background { fallback }) => match system_log() {
                Ok(socket) => Target::System(socket),
                Err(_) => Target::File(open_append(fallback.clone(), Some(FALLBACK_MAX_BYTES))?),
            },
        };
        Ok(Sink {
            target,
            format: options.format,
        })
    }

    /// One line from a process without a subscriber. Allocates nothing; what doesn't fit is cut off.
    pub fn line(&self, severity: Severity, message: fmt::Arguments<'_>) {
        let mut line = Line::default();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let level = severity.as_str();
        // A line that is too long is cut, not lost: writing to the buffer reports it, and that's fine.
        let _ = match self.format {
            LogFormat::Json => write!(
                line,
                "{{\"timestamp\":\"{}\",\"level\":\"{level}\",\"fields\":{{\"message\":\"{}\"}},\"target\":\"ttlfs::guard\"}}",
                Timestamp(now),
                JsonText(message)
            ),
            LogFormat::Text if matches!(self.target, Target::System(_)) => {
                write!(line, "{message}")
            }
            LogFormat::Text => write!(line, "{} {level:>5} {message}", Timestamp(now)),
        };
        line.end();
        self.send(severity, line.as_bytes());
    }

    /// A log that can't be written must not stop what it tells about: failures are dropped.
    fn send(&self, severity: Severity, bytes: &[u8]) {
        let _ = match &self.target {
            Target::Stderr => io::stderr().write_all(bytes),
            Target::File(file) => (&*file).write_all(bytes),
            Target::System(socket) => {
                let mut packet = Line::default();
                let priority = FACILITY_DAEMON | severity as u8;
                let _ = write!(packet, "<{priority}>ttlfs[{}]: ", std::process::id());
                packet.push(bytes.trim_ascii_end());
                socket.send(packet.as_bytes()).map(|_| ())
            }
        };
    }
}

fn system_log() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(SYSTEM_LOG)?;
    // A log daemon that hangs must not hang us.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn open_append(path: PathBuf, bytes_max: Option<u64>) -> io::Result<File> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
        .map(File::from)
        .map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })?;
    if bytes_max.is_some_and(|max| file.metadata().is_ok_and(|data| data.len() > max)) {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Starts logging in this process. Once, before the first line. `TTLFS_LOG` wins over the configured level.
pub fn start(options: &LogOptions, sink: Sink) -> io::Result<()> {
    let filter = filter(options)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false);
    let to_system = matches!(sink.target, Target::System(_));
    match options.format {
        LogFormat::Json => builder.json().with_writer(sink).init(),
        LogFormat::Text if to_system => builder
            .without_time()
            .with_level(false)
            .with_writer(sink)
            .init(),
        LogFormat::Text => builder.with_writer(sink).init(),
    }
    Ok(())
}

/// What is logged. Fails on a `TTLFS_LOG` that can't be understood.
pub fn filter(options: &LogOptions) -> io::Result<EnvFilter> {
    match std::env::var("TTLFS_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "TTLFS_LOG: {error}; allowed: a level (error, warn, info, debug, trace), or \
                     MODULE=LEVEL, separated by commas"
                ),
            )
        }),
        _ => {
            let level = options.level.unwrap_or(LogLevel::Info);
            Ok(EnvFilter::new(format!("warn,ttlfs={level}")))
        }
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = SinkWriter<'a>;

    fn make_writer(&'a self) -> SinkWriter<'a> {
        SinkWriter {
            sink: self,
            severity: Severity::Info,
        }
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> SinkWriter<'a> {
        let severity = match *meta.level() {
            tracing::Level::ERROR => Severity::Error,
            tracing::Level::WARN => Severity::Warning,
            tracing::Level::INFO => Severity::Info,
            _ => Severity::Debug,
        };
        SinkWriter {
            sink: self,
            severity,
        }
    }
}

/// Passes whole events on: the formatter writes each with one call.
pub struct SinkWriter<'a> {
    sink: &'a Sink,
    severity: Severity,
}

impl Write for SinkWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sink.send(self.severity, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of bounded length on the stack.
struct Line {
    bytes: [u8; LINE_MAX_BYTES],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Line {
            bytes: [0; LINE_MAX_BYTES],
            length: 0,
        }
    }
}

impl Line {
    fn push(&mut self, bytes: &[u8]) -> usize {
        // One byte is kept for the line's end.
        let room = LINE_MAX_BYTES - 1 - self.length;
        let taken = bytes.len().min(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        taken
    }

    fn end(&mut self) {
        self.bytes[self.length] = b'\n';
        self.length += 1;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.push(text.as_bytes()) == text.len() {
            Ok(())
        } else {
            Err(fmt::Error)
        }
    }
}

/// Text inside a JSON string.
struct JsonText<'a>(fmt::Arguments<'a>);

impl fmt::Display for JsonText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    match c {
                        '"' | '\\' => write!(self.0, "\\{c}")?,
                        c if c.is_control() => write!(self.0, "\\u{:04x}", c as u32)?,
                        c => self.0.write_char(c)?,
                    }
                }
                Ok(())
            }
        }
        Escape(f).write_fmt(self.0)
    }
}

/// A time since the epoch as RFC 3339 in UTC.
struct Timestamp(Duration);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Years from March: the leap day comes last (Howard Hinnant's days_from_civil, reversed).
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
            second / 3_600,
            second / 60 % 60,
            second % 60,
            self.0.subsec_micros()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_right_around_leap_days() {
        let shown = |seconds| Timestamp(Duration::from_secs(seconds)).to_string();
        assert_eq!(shown(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(shown(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(shown(1_709_251_199), "2024-02-29T23:59:59.000000Z");
        assert_eq!(shown(1_735_689_599), "2024-12-31T23:59:59.000000Z");
    }

    #[test]
    fn a_message_cannot_leave_its_json_string() {
        let text = JsonText(format_args!("a\"b\\c\n{}", "d\u{1}")).to_string();
        assert_eq!(text, "a\\\"b\\\\c\\u000ad\\u0001");
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut line = Line::default();
        let _ = write!(line, "{}", "x".repeat(3 * LINE_MAX_BYTES));
        line.end();
        assert_eq!(line.as_bytes().len(), LINE_MAX_BYTES);
        assert_eq!(line.as_bytes().last(), Some(&b'\n'));
    }
}
