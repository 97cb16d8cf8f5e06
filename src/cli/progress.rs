//! A progress bar for long calls, which also cancels them on a signal.

use std::ops::ControlFlow;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use litefleet::{Phase, Progress, Result};

use super::interrupt;

#[derive(Debug)]
pub(crate) struct Bar {
    bar: ProgressBar,
    verb: &'static str,
}

impl Bar {
    /// Creates a bar labelled `verb`, and makes signals cancel the call. It is drawn only if standard error is a terminal.
    pub(crate) fn new(verb: &'static str) -> Result<Self> {
        interrupt::cancel_on_signals()?;
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Ok(Self { bar, verb })
    }

    /// Shows the progress of the call, and stops it if a signal has requested that.
    pub(crate) fn show(&mut self, progress: Progress) -> ControlFlow<()> {
        let style = match progress.total {
            Some(_) => "{msg:10} {bar:32} {bytes}/{total_bytes} {bytes_per_sec}",
            None => "{spinner} {msg:10} {bytes} {elapsed}",
        };
        if let Ok(style) = ProgressStyle::with_template(style) {
            self.bar.set_style(style);
        }
        self.bar.set_message(match progress.phase {
            Phase::Check => "Checking",
            Phase::Sync => "Flushing",
            _ => self.verb,
        });
        if let Some(total) = progress.total {
            self.bar.set_length(total);
        }
        self.bar.set_position(progress.done);
        if interrupt::is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
