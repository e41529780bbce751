//! Writes log lines through a bounded queue and a separate thread, so that a slow or stalled reader of
//! standard output never delays the service.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use tracing::{error, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::prelude::*;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use casebridge::alert;
use casebridge::config::LogFormat;

/// Lines that may wait to be written; further ones are dropped and counted.
const LINES: usize = 8192;
/// How long lines gather before they are written: waking the thread for each line would cost a request more
/// than its line.
const GATHER: Duration = Duration::from_millis(10);
/// How long the process waits for queued lines at its end: more than the guard itself takes.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Writes log lines until it is dropped.
#[must_use]
pub struct Log(Option<WorkerGuard>);

/// Starts logging to standard output.
///
/// # Errors
/// Standard output is closed.
pub fn start(filter: &str, format: LogFormat) -> io::Result<Log> {
    let stdout = Arc::new(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    let dropped = Arc::new(OnceLock::new());
    let output = Output {
        lines: BufWriter::new(stdout.clone()),
        stdout,
        format,
        dropped: dropped.clone(),
        reported: 0,
    };
    let (queue, guard) =
        NonBlockingBuilder::default().buffered_lines_limit(LINES).thread_name("log").finish(output);
    // It is set once, and before the first line.
    let _ = dropped.set(queue.error_counter());
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::registry().with(layer(format, queue)).with(filter).init();
    log_panics();
    Ok(Log(Some(guard)))
}

fn layer<W>(format: LogFormat, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    match format {
        LogFormat::Text => {
            let colour = AutoStream::choice(&io::stdout()) != ColorChoice::Never;
            tracing_subscriber::fmt::layer().with_target(false).with_ansi(colour).with_writer(writer).boxed()
        }
        // Heroku adds its own time to each line.
        LogFormat::Logfmt => {
            tracing_logfmt::builder().with_timestamp(false).layer().with_writer(writer).boxed()
        }
        LogFormat::Json => {
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer).boxed()
        }
    }
}

/// Logs only the place of a panic: its message could contain a customer's text.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        error!(
            event = "defect",
            alert = alert::PANIC,
            place,
            "a defect in casebridge at {place}: please report it"
        );
    }));
}

impl Drop for Log {
    /// Waits for queued lines. If the queue is full, dropping the guard may never end, since it prints a
    /// complaint to the same output: so a thread drops it, which may be left behind.
    fn drop(&mut self) {
        let guard = self.0.take();
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            drop(guard);
            let _ = done.send(());
        });
        let _ = is_done.recv_timeout(END_LIMIT);
    }
}

/// The output of the thread: standard output, in as few calls as the queue allows.
struct Output {
    lines: BufWriter<Arc<File>>,
    stdout: Arc<File>,
    format: LogFormat,
    dropped: Arc<OnceLock<ErrorCounter>>,
    /// Number of dropped lines that were reported.
    reported: usize,
}

impl Write for Output {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.write(line)
    }

    /// Called when the queue is empty, so the reader is not stalled.
    fn flush(&mut self) -> io::Result<()> {
        self.lines.flush()?;
        let dropped = self.dropped.get().map_or(0, ErrorCounter::dropped_lines);
        if dropped > self.reported {
            self.report(dropped - self.reported);
            self.reported = dropped;
        }
        thread::sleep(GATHER);
        Ok(())
    }
}

impl Output {
    /// Writes past the queue, which may be full again.
    fn report(&self, dropped: usize) {
        let direct = tracing_subscriber::registry().with(layer(self.format, self.stdout.clone()));
        tracing::subscriber::with_default(direct, || {
            warn!(
                event = "log_lines_dropped",
                dropped,
                "dropped {dropped} log line(s), because nobody read them in time; deliveries are unaffected"
            );
        });
    }
}
